"""Names and functions: what a stored dotted path calls, and whether a call fits."""

import functools
import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

from pgwerk._core import mainmodule
from pgwerk._core.importing import find, required, resolve, unwrap
from pgwerk.errors import EnqueueError, HandlerNotFound

__all__ = ["check_call", "path_back_to", "path_of", "resolve", "unwrap", "wants_context"]

CONTEXT_NAMES = ("Context", "pgwerk.Context", "pgwerk.aio.Context")


def path_of(func: Any) -> str:
    """Name the dotted path of *func*, or raise EnqueueError saying why it has none.

    Whether a worker finds it there is not looked at: a decorator is called before the name is bound.
    """
    if isinstance(func, str):
        return _checked_path(func)
    return _place_of(unwrap(func)).path


def path_back_to(func: Any) -> str:
    """Find the dotted path by which a worker finds the very same *func*; raises EnqueueError when there is none."""
    if isinstance(func, str):
        path = _checked_path(func)
        _ = _importable(path)
        return path
    func = unwrap(func)
    place = _place_of(func)
    if unwrap(find(sys.modules.get(place.module), place.parts)) is not func:
        _require(func, place)
    return _of_program(place.module, ".".join(place.parts)) if place.module in mainmodule.MAIN else place.path


def _of_program(module: str, name: str) -> str:
    """Find the path of what is defined in the program itself; raises EnqueueError."""
    try:
        return f"{mainmodule.importable(module)}.{name}"
    except EnqueueError as error:
        raise EnqueueError(f"{name} cannot be enqueued: {error}") from None


class _Place(NamedTuple):
    """Where a function says that it is."""

    path: str
    """For workers."""
    module: str
    """In this process."""
    parts: tuple[str, ...]


def _place_of(func: Any) -> _Place:
    return _place_of_function(func) if type(func) is FunctionType else _place(func)


def _place(func: Any) -> _Place:
    if isinstance(func, functools.partial):
        raise EnqueueError(
            f"a partial of {_name(func.func)} cannot be enqueued: it has no name to import. "
            f"Enqueue {_name(func.func)} itself and pass the arguments to enqueue()."
        )
    if inspect.ismethod(func):
        raise EnqueueError(
            f"the method {func.__qualname__} cannot be enqueued: a worker cannot import the object it is bound to. "
            "Write a module-level function that fetches the object and calls the method."
        )
    if not callable(func):
        raise EnqueueError(f"{func!r} cannot be enqueued: give a module-level function or its dotted path")
    module = getattr(func, "__module__", None)
    name = getattr(func, "__qualname__", None)
    if not isinstance(name, str) or not isinstance(module, str):
        raise EnqueueError(f"{func!r} cannot be enqueued: it has no name that a worker could import it by")
    if name.rpartition(".")[2] == "<lambda>":
        raise EnqueueError(
            "a lambda cannot be enqueued: it has no name that a worker could import. "
            "Write a function with def at the top level of a module."
        )
    if "<locals>" in name:
        raise EnqueueError(
            f"{name.replace('.<locals>', '')} cannot be enqueued: it is defined inside a function, where a worker "
            "cannot import it. Move it to the top level of its module. If a decorator made it, "
            "the decorator lacks functools.wraps."
        )
    return _Place(f"{mainmodule.importable_or_same(module)}.{name}", module, tuple(name.split(".")))


_place_of_function = functools.lru_cache(maxsize=4096)(_place)


def _require(func: Any, place: _Place) -> None:
    """Raise EnqueueError unless the path leads back to *func*; its module may have to be imported."""
    try:
        module = sys.modules.get(place.module) or required(place.module)
    except HandlerNotFound as error:
        raise EnqueueError(
            f"{_name(func)} cannot be enqueued: a worker would import it as {place.path!r}, and {error}"
        ) from error
    found = find(module, place.parts)
    if unwrap(found) is func:
        return
    if found is None:
        what, cure = "which does not exist", "Give it a name of its own at the top level of its module."
    elif _wraps(found, func):
        what = f"which is what a decorator made of it: {_described(found)}"
        cure = "Enqueue that one, or give the undecorated function a name of its own."
    else:
        what = f"which is something else: {_described(found)}"
        cure = "Bind it to a name of its own at the top level of a module, and enqueue it by that dotted path."
    if other := _other_path(func, place.module):
        cure = f"Enqueue it by the path where it can be found: {other!r}."
    raise EnqueueError(
        f"{_described(func)} cannot be enqueued: a worker would import {place.path!r}, {what}. {cure}"
    ) from None


def _wraps(found: Any, func: Any) -> bool:
    for _ in range(100):
        found = unwrap(getattr(found, "__wrapped__", None))
        if found is None or found is func:
            break
    return found is func


def _described(found: Any) -> str:
    found = unwrap(found)
    code = getattr(found, "__code__", None)
    where = f" at {code.co_filename}:{code.co_firstlineno}" if code is not None else ""
    kind = "class" if isinstance(found, type) else "function" if code is not None else type(found).__qualname__
    return f"the {kind} {getattr(found, '__qualname__', '')}".rstrip() + where


def _other_path(func: Any, module: str) -> str | None:
    """Another name at the top level of a module that leads to *func*."""
    for home in (module, str(getattr(func, "__globals__", {}).get("__name__"))):
        names = vars(sys.modules[home]) if home in sys.modules else {}
        for name, value in list(names.items()):
            if name.isidentifier() and unwrap(value) is func:
                return f"{mainmodule.importable_or_same(home)}.{name}"
    return None


def _name(func: Any) -> str:
    return getattr(func, "__qualname__", repr(func))


def _checked_path(path: str) -> str:
    if "." not in path or not all(part.isidentifier() for part in path.split(".")):
        raise EnqueueError(
            f"{path!r} is not the dotted path of a function; it should look like 'package.module.function'"
        )
    module, _, name = path.partition(".")
    return _of_program(module, name) if module in mainmodule.MAIN else path


@functools.lru_cache(maxsize=4096)
def wants_context(func: Callable[..., Any]) -> bool:
    """Say whether the first positional parameter is named ctx or annotated as Context."""
    try:
        parameters = list(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):
        return False
    if not parameters:
        return False
    first = parameters[0]
    if first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return False
    annotation = first.annotation
    if isinstance(annotation, type):
        annotation = annotation.__name__
    return first.name == "ctx" or annotation in CONTEXT_NAMES


def check_call(func: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise EnqueueError when *func* cannot be called so. A path that cannot be imported here is not checked."""
    function = unwrap(func)
    if isinstance(function, str):
        function = _importable(path)
        if function is None:
            return
    problem = _problem(function, len(args), tuple(sorted(kwargs)) if kwargs else ())
    if problem is not None:
        raise EnqueueError(f"{path} cannot be called with these arguments: {problem}")


@functools.lru_cache(maxsize=4096)
def _importable(path: str) -> Callable[..., Any] | None:
    try:
        return resolve(path)
    except HandlerNotFound as error:
        parts = path.split(".")
        depth = next((depth for depth in range(len(parts) - 1, 0, -1) if ".".join(parts[:depth]) in sys.modules), 0)
        here = sys.modules.get(".".join(parts[:depth]))
        if here is not None and (depth == len(parts) - 1 or hasattr(here, parts[depth])):
            # The module is here and the function is not: a typing error rather than code that only workers have.
            raise EnqueueError(f"{path} cannot be enqueued: {error}") from None
        return None


@functools.lru_cache(maxsize=16384)
def _problem(func: Callable[..., Any], positional: int, names: tuple[str, ...]) -> str | None:
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):
        return None
    context = (None,) if wants_context(func) else ()
    try:
        _ = signature.bind(*context, *([None] * positional), **dict.fromkeys(names))
    except TypeError as error:
        return f"{error}. Its signature is {path_signature(func, signature)}"
    return None


def path_signature(func: Callable[..., Any], signature: inspect.Signature) -> str:
    """Show a call as a person would write it."""
    return f"{getattr(func, '__name__', 'function')}{signature}"
