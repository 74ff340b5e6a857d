"""Middleware: functions around every job, and how they and the handler become one call.

A *link* is a function without arguments: a blocking one returns its value, an awaited one returns a coroutine. The
handler is the innermost link, and each middleware makes a link of the one inside it; the first registered is outermost.
Where a blocking and an awaited link meet, a *bridge* turns the inner one into what the outer one can call; that depends
on where the job runs (`pgwerk._handlers.thread_loop` in a thread, `pgwerk._handlers.portal` on an event loop).
"""

import inspect
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from pgwerk._core.context import Context
from pgwerk.errors import ConfigError

Middleware = Callable[[Context, Callable[[], Any]], Any]
"""``def timing(ctx, call_next): …; result = call_next(); …; return result``, or ``async def`` with ``await``."""


@dataclass(frozen=True, slots=True)
class Link:
    """A function around the handler, or the handler itself, with all that it is called with."""

    call: Callable[[], Any]
    awaited: bool
    """Whether what it returns is a coroutine to be awaited."""


class Bridge(Protocol):
    """Turns one kind of link into the other."""

    def blocking(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Any]:
        """Return a function that waits for the coroutine that *call* makes, and returns its result."""
        ...

    def awaitable(self, call: Callable[[], Any]) -> Callable[[], Coroutine[Any, Any, Any]]:
        """Return a coroutine function that calls *call* without blocking the loop it runs on."""
        ...


def compose(middleware: Iterable[Middleware], context: Context, handler: Link, bridge: Bridge) -> Link:
    """Put all middleware around the handler."""
    link = handler
    for func in reversed(list(middleware)):
        awaited = is_async(func)
        inner = link.call
        if awaited and not link.awaited:
            inner = bridge.awaitable(inner)
        elif link.awaited and not awaited:
            inner = bridge.blocking(inner)
        link = Link((_awaited if awaited else _blocking)(func, context, _Next(inner, func)), awaited)
    return link


def _awaited(func: Middleware, context: Context, call_next: "_Next") -> Callable[[], Any]:
    return lambda: func(context, call_next)


def _blocking(func: Middleware, context: Context, call_next: "_Next") -> Callable[[], Any]:
    def call() -> Any:
        value = func(context, call_next)
        if inspect.iscoroutine(value):
            value.close()
            raise RuntimeError(
                f"the middleware {name_of(func)} returned a coroutine, and is not declared with async def: "
                "register the coroutine function itself"
            )
        return value

    return call


class _Next:
    """What a middleware calls to run what is inside it, at most once."""

    __slots__ = ("_call", "_called", "_owner")

    def __init__(self, call: Callable[[], Any], owner: Middleware) -> None:
        self._call = call
        self._owner = owner
        self._called = False

    def __call__(self) -> Any:
        if self._called:
            raise RuntimeError(
                f"the middleware {name_of(self._owner)} called call_next() a second time: a job runs once in each "
                "attempt, raise an error to have it retried"
            )
        self._called = True
        return self._call()


def is_async(func: Any) -> bool:
    """Say whether a function, or an object that can be called, has to be awaited."""
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(getattr(type(func), "__call__", None))  # noqa: B004  # its kind is what counts


def checked(func: Any) -> Any:
    """Return *func*, or raise ConfigError when it cannot be middleware."""
    name = name_of(func)
    if isinstance(func, type):
        raise ConfigError(f"middleware {name} is a class: register an instance of it, whose __call__ does the work")
    if not callable(func):
        raise ConfigError(f"middleware {name} cannot be called: register a function (ctx, call_next)")
    for kind in (func, getattr(type(func), "__call__", None)):  # noqa: B004  # see above
        if inspect.isgeneratorfunction(kind) or inspect.isasyncgenfunction(kind):
            raise ConfigError(
                f"middleware {name} is a generator function: instead of yield, call call_next() and return its result"
            )
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):
        return func
    try:
        _ = signature.bind(None, None)
    except TypeError:
        raise ConfigError(
            f"middleware {name}{signature} does not fit: it is called with two arguments, (ctx, call_next)"
        ) from None
    return func


def name_of(func: Any) -> str:
    """How an error names a function."""
    return getattr(func, "__qualname__", None) or repr(func)
