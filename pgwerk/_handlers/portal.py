"""How blocking code in a thread, beside an event loop, has a coroutine run on that loop."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pgwerk._handlers.run import set_current_run

if TYPE_CHECKING:
    from pgwerk._handlers.task import TaskRun

Reply = tuple[Any, BaseException | None]


@dataclass(eq=False)
class _Request:
    """A coroutine that the thread wants to be run."""

    call: Callable[[], Coroutine[Any, Any, Any]]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    """The thread's: what it set reaches the coroutine."""
    reply: "SimpleQueue[Reply]" = field(default_factory=SimpleQueue)


class Portal:
    """Between one thread that runs something for a task, and the loop of the task.

    The run is interrupted where it is: in the thread, or, while the thread waits for a coroutine, as the task of that
    coroutine. Everything but `call` happens on the loop.
    """

    def __init__(self, run: "TaskRun") -> None:
        self._run = run
        self._loop = run.loop
        self._wanted: asyncio.Future[_Request] = self._loop.create_future()
        self._closed = False

    def call(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine on the loop and wait for it; by the thread."""
        request = _Request(call)
        _ = self._loop.call_soon_threadsafe(self._ask, request)
        value, error = request.reply.get()
        if error is not None:
            raise error
        return value

    def _ask(self, request: _Request) -> None:
        if self._closed or self._wanted.done():
            request.reply.put((None, asyncio.CancelledError()))
        else:
            self._wanted.set_result(request)

    async def serve(self, done: "asyncio.Future[Reply]") -> Reply:
        """Run what the thread wants until it is done."""
        try:
            while True:
                _ = await asyncio.wait([done, self._wanted], return_when=asyncio.FIRST_COMPLETED)
                if not self._wanted.done():
                    return done.result()
                request = self._wanted.result()
                self._wanted = self._loop.create_future()
                request.reply.put(await self._answer(request))
        finally:
            self._closed = True
            if self._wanted.done():
                self._wanted.result().reply.put((None, asyncio.CancelledError()))

    async def _answer(self, request: _Request) -> Reply:
        run = self._run
        if run.reason is not None and run.delivered:
            # The interruption was meant for the thread just when it began to wait, where nothing reaches it.
            return None, run.reason(run.reason.__name__)
        thread, task = run.inner, run.task
        shields = thread.shields if thread is not None else 0
        run.shields += shields
        run.threaded, run.inner = False, None
        run.task = inner = self._loop.create_task(_caught(run, request.call), context=request.context)
        while not inner.done():
            try:
                _ = await asyncio.wait([inner])
            except asyncio.CancelledError:
                # Not an interruption, which cancels the inner task itself: the loop is about to end.
                _ = inner.cancel()
        late = run.delivered and not inner.cancelling()
        run.shields -= shields
        run.task = task
        run.threaded, run.inner = True, thread
        run.unshielded()
        value, error = (None, asyncio.CancelledError()) if inner.cancelled() else inner.result()
        if run.reason is not None and (late or isinstance(error, asyncio.CancelledError)):
            # In a thread an interruption is seen as what it is; also one that came just after the coroutine's end.
            error = run.reason(run.reason.__name__)
        return value, error


async def _caught(run: "TaskRun", call: Callable[[], Coroutine[Any, Any, Any]]) -> Reply:
    """Run a coroutine; also SystemExit, which would end the loop, is an answer."""
    set_current_run(run)
    try:
        return await call(), None
    except BaseException as error:  # noqa: BLE001  # raised in the thread
        return None, error
