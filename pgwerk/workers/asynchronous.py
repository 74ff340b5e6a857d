"""The worker of coroutines."""

import asyncio
import contextlib
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Unpack

from pgwerk._core.claim import Claimed
from pgwerk._core.job import Job
from pgwerk._handlers.forked import end_of_fork
from pgwerk._handlers.interrupt import ThreadRun
from pgwerk._handlers.run import Run
from pgwerk._handlers.task import LoopRunner
from pgwerk.workers.base import WorkerSettings
from pgwerk.workers.crews.base import Crew
from pgwerk.workers.crews.loop import LoopCrew
from pgwerk.workers.pooled import CrewWorker

logger = logging.getLogger("pgwerk.worker")

LAST_TASKS = 5.0
"""Seconds that tasks which handlers left running have to end after their cancellation."""


class AsyncWorker(CrewWorker):
    """Run up to *concurrency* jobs at once as coroutines on one event loop; plain functions run in threads.

    The loop has a thread of its own, and so has the worker: a handler that blocks the loop does not keep the worker
    from showing that it lives. A worker whose loop stays blocked past a timeout gives its jobs back and ends with
    WerkError.
    """

    kind = "async"
    unit = "tasks"
    _loop: asyncio.AbstractEventLoop | None = None
    _writer: ThreadPoolExecutor | None = None
    """Stores progress one by one, so that the last word is the last."""

    def __init__(
        self,
        app: Any,
        queues: Sequence[str] | str = ("default",),
        concurrency: int = 10,
        **settings: Unpack[WorkerSettings],
    ) -> None:
        super().__init__(app, queues, concurrency, **settings)
        self._reports: dict[str, Future[None]] = {}
        """By job: its progress that was reported last."""

    def run(self) -> None:
        """Work until stopped; with burst, until nothing is queued or running. Blocks."""
        with _loop_in_a_thread() as loop:
            self.run_beside(loop)

    def run_beside(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run with handlers on *loop*, which another thread runs."""
        self._loop = loop
        _of_workers.add(loop)
        self._writer = ThreadPoolExecutor(1, "werk-progress")
        try:
            super().run()
        finally:
            self._writer.shutdown(wait=False)
            self._loop = self._writer = None

    def _start_app(self) -> None:
        self.runtime.connect()
        started = self.app.connect()
        if inspect.iscoroutine(started):
            assert self._loop is not None
            _ = asyncio.run_coroutine_threadsafe(started, self._loop).result()

    def _crew(self, wake: Callable[[], None]) -> Crew:
        assert self._loop is not None
        runner = LoopRunner(
            self.app, self, self.werk.serializer, self.hooks, self._load_job, _in_thread, self._progress_stored
        )
        return LoopCrew(runner, self.concurrency, wake, self._loop)

    async def _load_job(self, job_id: str) -> Job:
        return await asyncio.to_thread(self.werk.get_job, job_id)

    def report_progress(self, claimed: Claimed, fraction: float, message: str | None) -> None:
        """Store the progress of a running job, soon."""
        if self._writer is not None:
            stored = self._writer.submit(super().report_progress, claimed, fraction, message)
            self._reports[claimed.id] = stored

    async def _progress_stored(self, run: Run) -> None:
        """Wait until the last progress of a run is stored: after its end nothing more can be."""
        stored = self._reports.pop(run.claimed.id, None)
        if stored is not None:
            with contextlib.suppress(Exception):
                await asyncio.wrap_future(stored)


_of_workers: "weakref.WeakSet[asyncio.AbstractEventLoop]" = weakref.WeakSet()


def _abandon_loops() -> None:
    """In a process that a handler forked: run nothing more of the worker's loop, which may be on the stack."""
    for loop in list(_of_workers):
        for handle in list(getattr(loop, "_ready", ())):
            handle.cancel()
        with contextlib.suppress(Exception):
            _ = loop.call_soon(
                end_of_fork, RuntimeError("a process that a handler forked cannot wait on the worker's loop")
            )


os.register_at_fork(after_in_child=_abandon_loops)


def _in_thread(run: Run) -> Run:
    return ThreadRun(run.claimed, run.started, run.deadline)


@contextlib.contextmanager
def _loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """Run a loop in a daemon thread; at the end, cancel what still runs on it."""
    loop = asyncio.new_event_loop()
    over = threading.Event()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        while not over.is_set():
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # From a task that a handler started: the loop stops, as if the whole program were to end.
                logger.error("ignored %s, raised by a task on the worker's loop", type(error).__name__)  # noqa: TRY400

    thread = threading.Thread(target=serve, name="werk-loop", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(LAST_TASKS)
        over.set()
        _ = loop.call_soon_threadsafe(loop.stop)
        thread.join(1.0)
        if not thread.is_alive():
            loop.close()


async def _cancel_all() -> None:
    me = asyncio.current_task()
    others: list[asyncio.Task[Any]] = [task for task in asyncio.all_tasks() if task is not me]
    for task in others:
        _ = task.cancel()
    if others:
        _ = await asyncio.wait(others, timeout=LAST_TASKS / 2)
    await asyncio.get_running_loop().shutdown_asyncgens()
