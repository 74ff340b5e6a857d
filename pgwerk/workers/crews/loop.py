"""The crew of a loop: coroutines as tasks of one asyncio loop, which another thread runs."""

import asyncio
import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from pgwerk._core.claim import Claimed
from pgwerk._handlers.run import Run, monotonic
from pgwerk._handlers.task import LoopRunner, TaskRun
from pgwerk.errors import WerkError
from pgwerk.workers.crews.base import Crew, deadline_of

logger = logging.getLogger("pgwerk.worker")


class LoopCrew(Crew):
    """Handlers as tasks of a loop. The coordinator's thread is another, so no handler keeps it from its work."""

    def __init__(
        self, runner: LoopRunner, size: int, wake: Callable[[], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(size, wake)
        self._runner = runner
        self._loop = loop
        self._jobs: deque[Claimed] = deque()
        self._runs: dict[int, TaskRun] = {}
        """By their own id; a run that was left behind is not in it any more."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = 0
        """The thread of the loop, once a job has run."""

    def start(self) -> None:
        """Nothing to get ready."""

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Hand jobs to the loop."""
        self._jobs.extend(jobs)
        if self._jobs:
            self._soon(self._fill)

    def _soon(self, func: Callable[[], None]) -> None:
        try:
            _ = self._loop.call_soon_threadsafe(func)
        except RuntimeError:
            self.broken = self.broken or WerkError("the event loop of the worker was closed while it worked")

    def _fill(self) -> None:
        """Start what there are slots for; on the loop."""
        self._thread = threading.get_ident()
        while len(self._runs) < self._size:
            try:
                claimed = self._jobs.popleft()
            except IndexError:
                return
            # Its time begins with its task: another one may block the loop before that.
            run = TaskRun(claimed, monotonic(), None, loop=self._loop)
            self._runs[id(run)] = run
            task = self._loop.create_task(self._work(run), name=f"werk {claimed.function}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, run: TaskRun) -> None:
        run.started = monotonic()
        run.deadline = deadline_of(run.claimed, run.started)
        self._begins(run)
        outcome = await self._runner.run(run)
        if self._runs.pop(id(run), None) is run:
            self._over(run, outcome)
            self._fill()

    def take_back(self) -> list[Claimed]:
        """Empty the queue."""
        found: list[Claimed] = []
        try:
            while True:
                found.append(self._jobs.popleft())
        except IndexError:
            return found

    def running(self) -> Sequence[Run]:
        """What runs now."""
        return list(self._runs.values())

    @property
    def waiting(self) -> bool:
        """Whether anything is submitted and not started."""
        return bool(self._jobs)

    def _leave_behind(self, run: Run, *, replace: bool) -> None:
        assert isinstance(run, TaskRun)
        if self._runs.pop(id(run), None) is not run:
            return
        job = run.claimed.job
        blocked = not run.delivered
        logger.error(
            "job %s (%s) did not stop: abandoning its %s. It is at:\n%s",
            job.id, job.function, "thread" if run.threaded else "task", self._stack(run, blocked=blocked),
        )  # fmt: skip
        self._over(run)
        if blocked and replace:
            self.broken = WerkError(
                f"a handler blocks the event loop, so no job of this worker can continue; job {job.id} "
                f"({job.function}) could not be interrupted. Put blocking code in a plain (non-async) function, "
                "which runs in a thread"
            )
        self._soon(self._fill)

    def _stack(self, run: TaskRun, *, blocked: bool) -> str:
        """Where the handler is: its task waits there, or the whole loop hangs there."""
        if blocked:
            frame = sys._current_frames().get(self._thread)  # noqa: SLF001  # the only way to see it
            return "".join(traceback.format_stack(frame)) if frame is not None else "(the loop's thread has ended)\n"
        frames = run.task.get_stack() if run.task is not None else []
        return "".join(line for frame in frames for line in traceback.format_stack(frame, limit=1))

    def close(self) -> None:
        """Let idle threads end; tasks that were left behind belong to the loop."""
        self._runner.threads.close()
