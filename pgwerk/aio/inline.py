"""``_sync=True``: running a job in this process, beside the task that waits for it; recorded as a worker would."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from pgwerk._app.inline import InlineWorker, Step, in_place, refuse_to_run
from pgwerk._core.claim import Claimed
from pgwerk._core.job import Job
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.outcome import Outcome
from pgwerk._handlers.call import Hooks, interrupted_outcome
from pgwerk._handlers.run import Interruption, Run, monotonic
from pgwerk._handlers.task import LoopRunner, TaskRun
from pgwerk.aio.runtime import Runtime
from pgwerk.errors import JobAborted, WerkError

T = TypeVar("T")


async def run_inline(werk: Any, runtime: Runtime, new_job: NewJob, conn: Any) -> Job | None:
    """Insert a job, run it here and now with the attempts it has, and record it; on *conn*, all in its transaction.

    A coroutine function runs on this loop, another in a thread. A failure is recorded and not raised: look at the job
    that is returned. When the caller is cancelled, so is the handler; the job is recorded as aborted. A function in a
    thread cannot be cancelled: its end is waited for.
    """
    refuse_to_run(new_job)
    connection = await runtime.joined(conn)
    worker = InlineWorker()
    inline = _Inline(werk, runtime, worker, connection)
    steps = in_place(new_job, worker, runtime.app.decode, inline.interruption)
    reply: Any = None
    async with contextlib.nullcontext() if connection is not None else _kept_alive(runtime, worker):
        try:
            while True:
                reply = await inline.take(steps.send(reply))
        except StopIteration as stop:
            inline.raise_cancellation()
            job: Job | None = stop.value
            return job
        finally:
            inline.runner.threads.close()


class _Inline:
    """One job that runs in place. What is begun is done to its end, and recorded; a cancellation is raised then."""

    def __init__(self, werk: Any, runtime: Runtime, worker: InlineWorker, connection: Any) -> None:
        hooks = Hooks(middleware=runtime.app.middleware)
        self.runner = LoopRunner(werk, worker, runtime.app.serializer, hooks, werk.get_job, _Uninterruptible.of)
        self._executor = runtime.backend
        self._connection = connection
        self._run: TaskRun | None = None
        self._cancelled = False

    async def take(self, step: Step) -> Any:
        """Run an operation, or a handler."""
        if not isinstance(step, Claimed):
            return await self._to_its_end(self._executor.run(step, self._connection))
        run = self._run = TaskRun(step, monotonic(), None)
        if self._cancelled:
            outcome: Outcome = interrupted_outcome(JobAborted, step)
        else:
            outcome = await self._to_its_end(self.runner.run(run))
        self._run = None
        return outcome, monotonic() - run.started

    async def _to_its_end(self, coroutine: Coroutine[Any, Any, T]) -> T:
        # In a task of its own, so that our cancellation is not its: it would tear what is just being written.
        task = asyncio.create_task(coroutine)
        while not task.done():
            try:
                _ = await asyncio.wait([task])
            except asyncio.CancelledError:
                self._cancelled = True
                if self._run is not None:
                    self._run.interrupt(JobAborted)
        return task.result()

    def interruption(self) -> BaseException | None:
        """What is raised instead of another attempt."""
        return asyncio.CancelledError() if self._cancelled else None

    def raise_cancellation(self) -> None:
        """Raise what was put off."""
        if self._cancelled:
            raise asyncio.CancelledError


class _Uninterruptible(Run):
    """A run in a thread, of which only the handler itself can see that it should end: `ctx.stopping`."""

    @classmethod
    def of(cls, outer: TaskRun) -> "Run":
        """What runs in the thread for *outer*."""
        return cls(outer.claimed, outer.started, outer.deadline)

    def interrupt(self, reason: Interruption) -> None:
        """Note the reason."""
        _ = self.mark(reason)


@contextlib.asynccontextmanager
async def _kept_alive(runtime: Runtime, worker: InlineWorker) -> AsyncIterator[None]:
    """Show now and then that the job is being run."""
    over = asyncio.Event()

    async def beat() -> None:
        registered = False
        while not over.is_set():
            try:
                async with asyncio.timeout(runtime.app.config.heartbeat_interval):
                    _ = await over.wait()
            except TimeoutError:
                with contextlib.suppress(WerkError):
                    await runtime.backend.run(worker.register(runtime.app.liveness))
                    registered = True
        if registered:
            with contextlib.suppress(WerkError):
                await runtime.backend.run(worker.leave())

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        over.set()
        _ = await asyncio.wait([task])
