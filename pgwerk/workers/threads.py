"""The crew of threads."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue

from pgwerk._core.statements.claims import Claimed
from pgwerk._runs import INTERRUPTIONS, Run, monotonic
from pgwerk.sync.runner import Runner, close_loop
from pgwerk.sync.slots import ThreadRun, stack_of
from pgwerk.workers.crew import Crew, deadline_of

logger = logging.getLogger("pgwerk.worker")


class ThreadCrew(Crew):
    """Handlers in a fixed number of daemon threads."""

    def __init__(self, runner: Runner, size: int, wake: Callable[[], None]) -> None:
        super().__init__(size, wake)
        self._runner = runner
        self._jobs: SimpleQueue[Claimed | None] = SimpleQueue()
        self._runs: dict[int, ThreadRun] = {}
        """By their own id; a run that was left behind is not in it any more."""
        self._left: set[int] = set()
        """Threads that were left behind: whatever they report is ignored."""
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads."""
        for _ in range(self._size):
            self._add_thread()

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"werk-{len(self._threads) + 1}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        me = threading.get_ident()
        while me not in self._left:
            try:
                if not self._work_once(me):
                    break
            except INTERRUPTIONS:
                # It was meant for a run that had just ended.
                continue
        close_loop()

    def _work_once(self, me: int) -> bool:
        claimed = self._jobs.get()
        if claimed is None:
            return False
        started = monotonic()
        run = ThreadRun(claimed, started, deadline_of(claimed, started), thread=me)
        if self.begun is not None:
            self.begun.begin(claimed, run.deadline)
        self._runs[id(run)] = run
        outcome = self._runner.run(run)
        if self._runs.pop(id(run), None) is run:
            self._over(run, outcome)
        return True

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Put jobs into the threads' queue."""
        for job in jobs:
            self._jobs.put(job)

    def take_back(self) -> list[Claimed]:
        """Empty the threads' queue."""
        found: list[Claimed] = []
        with contextlib.suppress(Empty):
            while True:
                claimed = self._jobs.get_nowait()
                if claimed is not None:
                    found.append(claimed)
        return found

    def running(self) -> Sequence[Run]:
        """What runs now."""
        return list(self._runs.values())

    @property
    def waiting(self) -> bool:
        """Whether anything is submitted and not started."""
        return not self._jobs.empty()

    def _leave_behind(self, run: Run, *, replace: bool) -> None:
        assert isinstance(run, ThreadRun)
        if self._runs.pop(id(run), None) is not run:
            return
        self.crippled = True
        self._left.add(run.thread)
        job = run.claimed.job
        logger.error(
            "job %s (%s) does not stop: its thread is left behind%s. It is at:\n%s",
            job.id,
            job.function,
            " and this process will be replaced" if replace else "",
            stack_of(run.thread),
        )
        self._over(run)
        if replace:
            # The slot is not lost, even where nobody replaces the process.
            self._add_thread()

    def close(self) -> None:
        """Let the threads end; those left behind end with the process."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            if thread.ident not in self._left:
                thread.join(1.0)
