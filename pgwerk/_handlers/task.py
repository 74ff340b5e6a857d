"""Running one handler as a task of a loop: from a claimed row to an outcome. Nothing a handler does gets past it."""

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from pgwerk._core.context import Context
from pgwerk._core.job import Job
from pgwerk._core.middleware import Link, compose
from pgwerk._core.outcome import Outcome
from pgwerk._handlers.call import Call, Handlers, failure, hook_failed
from pgwerk._handlers.forked import EndOfForks
from pgwerk._handlers.portal import Portal
from pgwerk._handlers.run import INTERRUPTIONS, Interruption, Run, set_current_run


@dataclass(eq=False, slots=True)
class TaskRun(Run):
    """One run of a handler as a task, or of a plain (non-async) function in a thread."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    task: "asyncio.Task[Any] | None" = None
    threaded: bool = False
    inner: Run | None = None
    """The run in the thread, as soon as that has begun."""
    delivered: bool = False
    """The loop got round to telling the task."""

    def interrupt(self, reason: Interruption) -> None:
        """Interrupt the handler, from any thread; the first reason counts."""
        if self.mark(reason):
            self.loop.call_soon_threadsafe(self._deliver)

    def unshielded(self) -> None:
        """Deliver what was put off."""
        if self.reason is not None and not self.delivered:
            self._deliver()

    def _deliver(self) -> None:
        if not self.open or self.shields or self.reason is None:
            return
        self.delivered = True
        if self.threaded:
            if self.inner is not None:
                self.inner.interrupt(self.reason)
        elif self.task is not None:
            _ = self.task.cancel(self.reason.__name__)


@dataclass
class LoopRunner(Handlers):
    """Runs handlers on the running loop; plain (non-async) functions in threads."""

    load_job: Callable[[str], Awaitable[Job]]
    """Reads the ended job of a callback."""
    thread_run: Callable[[TaskRun], Run] = field(default=lambda run: Run(run.claimed, run.started, run.deadline))
    """Makes, in the thread that runs a function, the run through which it can be interrupted."""
    flush: Callable[[Run], Awaitable[None]] | None = None
    """Awaited between the handler's end and its report, where progress is stored beside the loop."""
    threads: "Threads" = field(default_factory=lambda: Threads())  # noqa: PLW0108  # defined below

    async def run(self, run: TaskRun) -> Outcome:
        """Run the handler of a claimed job and say what happened. The task must be the run's own."""
        set_current_run(run)
        run.task = asyncio.current_task()
        run.open = True
        try:
            outcome = self.success(run, await self._call(run))
        except BaseException as error:  # noqa: BLE001  # SystemExit in a handler is a failed attempt, too
            outcome = failure(run, error)
        # No await since the handler's end: nobody can have interrupted it in between.
        run.close()
        if self.flush is not None:
            await self.flush(run)
        return outcome

    async def _call(self, run: TaskRun) -> Any:
        call = self.prepare(run)
        ended = run.claimed.callback_of
        if ended is not None:
            call.about(await self.load_job(ended))
        if call.context is not None and self.hooks:
            return await self._hooked(run, call, call.context)
        return await self._finish(run, call)

    async def _finish(self, run: TaskRun, call: Call) -> Any:
        """Call the handler. A process that it forked, and that comes back as well, ends here."""
        return await _ending_forks(self._handle(run, call))

    async def _handle(self, run: TaskRun, call: Call) -> Any:
        if inspect.iscoroutinefunction(call.func):
            return await call()
        result = await self._in_thread(run, call)
        return await result if inspect.isawaitable(result) else result

    async def _in_thread(self, run: TaskRun, call: Callable[[], Any], portal: Portal | None = None) -> Any:
        """Call something in a thread; a *portal* is served meanwhile."""
        outside = run.threaded, run.inner
        run.threaded, run.inner = True, None
        try:
            inside = contextvars.copy_context()
            done = self.threads.call(inside.run, _interruptible, run, self.thread_run, call)
            value, error = await (done if portal is None else portal.serve(done))
        finally:
            run.threaded, run.inner = outside
        if error is not None:
            raise error
        return value

    async def _inside(self, run: TaskRun, call: Call, context: Context) -> Any:
        """Call the handler inside of the middleware."""
        if not self.hooks.middleware:
            return await self._finish(run, call)
        bridge = _LoopBridge(self, run)
        if inspect.iscoroutinefunction(call.func):
            handler = Link(partial(self._finish, run, call), awaited=True)
        else:
            handler = Link(partial(bridge.call_blocking, call), awaited=False)
        link = compose(self.hooks.middleware, context, handler, bridge)
        return await _ending_forks((link.call if link.awaited else bridge.awaitable(link.call))())

    async def _hooked(self, run: TaskRun, call: Call, context: Context) -> Any:
        try:
            for hook in self.hooks.before:
                await _awaited(hook(context))
            return await self._inside(run, call, context)
        except BaseException as error:
            context.exception = error
            for handler in reversed(self.hooks.on_error):
                await self._harmless(handler, context.job, error)
            raise
        finally:
            for hook in self.hooks.after:
                await self._harmless(hook, context)

    @staticmethod
    async def _harmless(hook: Callable[..., Any], *args: Any) -> None:
        """Call a hook whose own error must not change what happened to the job."""
        try:
            await _awaited(hook(*args))
        except INTERRUPTIONS:
            raise
        except Exception as error:  # noqa: BLE001  # logged
            hook_failed(hook, error)


async def _awaited(value: Any) -> None:
    if inspect.isawaitable(value):
        _ = await value


async def _ending_forks(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Await a coroutine; a process that it forked, and that comes back as well, ends here."""
    with EndOfForks():
        return await coroutine


class _LoopBridge:
    """Lets blocking and asynchronous middleware of one job call each other on a loop: what blocks runs in a thread."""

    def __init__(self, runner: LoopRunner, run: TaskRun) -> None:
        self._runner = runner
        self._run = run
        self._portal: Portal | None = None
        """Of the thread that runs now, or waits for what the loop runs for it; changed on the loop."""

    def blocking(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Callable[[], Any]:
        """Return a function that has the loop run the coroutine that *call* makes, and waits for it."""

        def wait() -> Any:
            assert self._portal is not None
            return self._portal.call(call)

        return wait

    def awaitable(self, call: Callable[[], Any]) -> Callable[[], Coroutine[Any, Any, Any]]:
        """Return a coroutine function that calls *call* in a thread."""

        async def in_thread() -> Any:
            outside, self._portal = self._portal, Portal(self._run)
            try:
                return await self._runner._in_thread(self._run, call, self._portal)  # noqa: SLF001  # of this module
            finally:
                self._portal = outside

        return in_thread

    def call_blocking(self, call: Call) -> Any:
        """Call a handler in the thread of its middleware; what it returns may have to be awaited, on the loop."""
        with EndOfForks():
            value = call()
        return self.blocking(partial(_await, value))() if inspect.isawaitable(value) else value


async def _await(value: Awaitable[Any]) -> Any:
    return await value


def _interruptible(
    outer: TaskRun, make: Callable[[TaskRun], Run], call: Callable[[], Any]
) -> tuple[Any, BaseException | None]:
    """Call a function in this thread: its result, or what it raised."""
    value: Any = None
    error: BaseException | None = None
    run = make(outer)
    # The second try is for an interruption that arrives between the function's end and close().
    try:
        set_current_run(run)
        run.open = True
        outer.inner = run
        try:
            if outer.reason is not None:
                # Interrupted before there was anything to interrupt.
                raise outer.reason(outer.reason.__name__)  # noqa: TRY301  # as if it had arrived a moment later
            with EndOfForks():
                value = call()
        except BaseException as raised:  # noqa: BLE001  # handed on
            error = raised
        run.close()
    except INTERRUPTIONS as raised:
        run.close()
        error = error or raised
    return value, error


class Threads:
    """As many daemon threads as there are calls at once, kept for the next ones.

    Not the loop's own executor: that one waits at the end of the program for calls that never return.
    """

    def __init__(self) -> None:
        self._idle: list[SimpleQueue[Any]] = []
        self._all: list[SimpleQueue[Any]] = []

    def call(self, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        """Call *func* in a thread; what it returns becomes the future's result. It must not raise."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            queue = self._idle.pop()
        except IndexError:
            queue = SimpleQueue()
            self._all.append(queue)
            threading.Thread(target=self._serve, args=(queue,), name="werk-sync", daemon=True).start()
        queue.put((future, func, args))
        return future

    def _serve(self, queue: "SimpleQueue[Any]") -> None:
        while (item := queue.get()) is not None:
            future, func, args = item
            result = func(*args)
            try:
                future.get_loop().call_soon_threadsafe(_resolve, future, result)
            except RuntimeError:
                # The loop was closed: whoever waited is gone.
                return
            item = future = result = None
            self._idle.append(queue)

    def close(self) -> None:
        """Let idle threads end, and the others when they are done."""
        for queue in self._all:
            queue.put(None)
        self._all.clear()
        self._idle.clear()


def _resolve(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)
