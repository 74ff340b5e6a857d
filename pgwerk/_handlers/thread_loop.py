"""The event loop of a thread that runs handlers: made when the first coroutine needs it."""

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from pgwerk.errors import WerkError

logger = logging.getLogger("pgwerk.worker")

_loops = threading.local()


def run_coroutine(coroutine: Any) -> Any:
    """Run a coroutine to its end on this thread's own loop, made at first use."""
    runner: asyncio.Runner | None = getattr(_loops, "runner", None)
    if runner is None:
        runner = _loops.runner = asyncio.Runner()
    try:
        return runner.run(coroutine)
    except BaseException:
        # A loop that was interrupted is not used again.
        close_loop()
        raise


def close_loop() -> None:
    """Close this thread's loop, if it made one."""
    runner: asyncio.Runner | None = getattr(_loops, "runner", None)
    if runner is not None:
        _loops.runner = None
        try:
            runner.close()
        except Exception:
            logger.exception("could not close the event loop of a handler")


def finish(value: Any) -> Any:
    """Run *value* to its end if it is a coroutine, else return it."""
    return run_coroutine(value) if value is not None and inspect.iscoroutine(value) else value


Request = tuple[Callable[[], Any], "asyncio.Future[tuple[Any, BaseException | None]]"]


class ThreadBridge:
    """Lets blocking and asynchronous middleware of one job call each other in a thread.

    Coroutines run on the thread's loop. When one of them wants something blocking, the loop is left, so that what
    blocks finds no running loop (it may make one of its own), and entered again with the result. What blocks runs in
    the context of the coroutine that wanted it, so context variables reach the handler.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wanted: asyncio.Future[Request] | None = None

    def blocking(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Any]:
        """Return a function that runs the coroutine that *call* makes."""
        return lambda: self._drive(call)

    def awaitable(self, call: Callable[[], Any]) -> Callable[[], Coroutine[Any, Any, Any]]:
        """Return a coroutine function that has *call* called outside of the loop."""

        async def ask() -> Any:
            assert self._loop is not None
            assert self._wanted is not None
            reply: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()
            self._wanted.set_result((call, reply))
            value, error = await reply
            if error is not None:
                raise error
            return value

        return ask

    def _drive(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        if asyncio._get_running_loop() is not None:  # noqa: SLF001  # get_running_loop() raises instead
            raise WerkError(
                "asynchronous middleware cannot run here: this thread runs an event loop. Enqueue with `app.aio` "
                "there, or without _sync=True"
            )
        # Set aside, so that coroutines inside of what blocks get another one: this one has a task of its own to keep.
        runner: asyncio.Runner = getattr(_loops, "runner", None) or asyncio.Runner()
        _loops.runner = None
        outer = self._loop, self._wanted
        task: asyncio.Task[Any] | None = None
        try:
            self._loop = loop = runner.get_loop()
            context = contextvars.copy_context()
            task = loop.create_task(call(), context=context)
            while True:
                self._wanted = wanted = loop.create_future()
                _ = loop.run_until_complete(asyncio.wait([task, wanted], return_when=asyncio.FIRST_COMPLETED))
                if not wanted.done():
                    return task.result()
                _answer(wanted.result(), context)
        finally:
            self._loop, self._wanted = outer
            close_loop()
            _loops.runner = runner
            if task is None or not task.done():
                # A loop that was interrupted is not used again.
                close_loop()


def _answer(request: Request, context: contextvars.Context) -> None:
    call, reply = request
    value: Any = None
    error: BaseException | None = None
    try:
        value = context.run(call)
    except BaseException as raised:  # noqa: BLE001  # raised where it was wanted
        error = raised
    if not reply.done():
        reply.set_result((value, error))
