"""Who runs the handlers of a worker: the contract, and the crew of threads."""

import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Protocol

from pgwerk._core.outcome import Outcome
from pgwerk._core.statements.claims import Claimed
from pgwerk.errors import JobTimeout, WorkerShutdown
from pgwerk.sync.runner import Runner, close_loop, interrupted_outcome
from pgwerk.sync.slots import INTERRUPTIONS, Interruption, Run, monotonic, stack_of

logger = logging.getLogger("pgwerk.worker")

TIMEOUT_GRACE = 5.0
"""Seconds that a handler has between being interrupted (at its timeout, by an abort) and being left behind."""


@dataclass(slots=True)
class Finished:
    """A run that is over: what happened, and when it began and ended on the monotonic clock."""

    claimed: Claimed
    outcome: Outcome
    began: float
    ended: float


class Crew(Protocol):
    """Whoever runs handlers for a coordinator. Only `wake` (given at construction) is called by its threads."""

    crippled: bool
    """A handler could not be stopped: the process should be replaced."""

    def start(self) -> None:
        """Get ready to run handlers."""
        ...

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Run these, in order, as slots get free."""
        ...

    def finished(self) -> list[Finished]:
        """Take the runs that are over."""
        ...

    def take_back(self) -> list[Claimed]:
        """Take back what has not been started."""
        ...

    def interrupt(self, reason: Interruption, ids: Iterable[str] | None = None) -> None:
        """Interrupt running handlers; all without *ids*."""
        ...

    def enforce(self, now: float) -> None:
        """Interrupt handlers past their timeout, and leave behind those that ignore it."""
        ...

    def next_deadline(self) -> float | None:
        """When `enforce` has something to do next."""
        ...

    def running(self) -> Sequence[Run]:
        """What runs now."""
        ...

    @property
    def waiting(self) -> bool:
        """Whether anything is submitted and not started."""
        ...

    def abandon(self) -> None:
        """Leave behind every handler that still runs; each is reported as interrupted."""
        ...

    def close(self) -> None:
        """Let go of everything; handlers have ended or are left behind."""
        ...


class ThreadCrew:
    """Handlers in a fixed number of daemon threads."""

    def __init__(self, runner: Runner, size: int, wake: Callable[[], None]) -> None:
        self._runner = runner
        self._size = size
        self._wake = wake
        self._jobs: SimpleQueue[Claimed | None] = SimpleQueue()
        self._finished: deque[Finished] = deque()
        self._runs: dict[int, Run] = {}
        """By thread; a run that was left behind is not in it any more."""
        self._left: set[int] = set()
        """Threads that were left behind: whatever they report is ignored."""
        self._threads: list[threading.Thread] = []
        self.crippled = False

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
        timeout = claimed.job.timeout_secs
        run = Run(claimed, me, started, None if timeout is None else started + timeout)
        self._runs[me] = run
        outcome = self._runner.run(run)
        ended = monotonic()
        if self._runs.pop(me, None) is run:
            self._finished.append(Finished(claimed, outcome, started, ended))
            self._wake()
        return True

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Put jobs into the threads' queue."""
        for job in jobs:
            self._jobs.put(job)

    def finished(self) -> list[Finished]:
        """Take the runs that are over."""
        found: list[Finished] = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._finished.popleft())
        return found

    def take_back(self) -> list[Claimed]:
        """Empty the threads' queue."""
        found: list[Claimed] = []
        with contextlib.suppress(Empty):
            while True:
                claimed = self._jobs.get_nowait()
                if claimed is not None:
                    found.append(claimed)
        return found

    def running(self) -> list[Run]:
        """What runs now."""
        return list(self._runs.values())

    @property
    def waiting(self) -> bool:
        """Whether anything is submitted and not started."""
        return not self._jobs.empty()

    def interrupt(self, reason: Interruption, ids: Iterable[str] | None = None) -> None:
        """Interrupt running handlers; all without *ids*."""
        wanted = None if ids is None else set(ids)
        for run in self.running():
            if wanted is None or run.claimed.job.id in wanted:
                run.interrupt(reason)

    def enforce(self, now: float) -> None:
        """Interrupt handlers past their timeout, and leave behind those that ignore it or their abort."""
        for run in self.running():
            if run.reason is None and run.deadline is not None and now >= run.deadline:
                run.interrupt(JobTimeout)
            if now >= _end_of_patience(run):
                self._leave_behind(run, replace=True)

    def next_deadline(self) -> float | None:
        """When `enforce` has something to do next."""
        moments = [_next_moment(run) for run in self.running()]
        return min((moment for moment in moments if moment < math.inf), default=None)

    def abandon(self) -> None:
        """Leave behind every handler that still runs."""
        for run in self.running():
            self._leave_behind(run, replace=False)

    def _leave_behind(self, run: Run, *, replace: bool) -> None:
        if self._runs.pop(run.thread, None) is not run:
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
        reason = run.reason or JobTimeout
        outcome = interrupted_outcome(reason, run.claimed)
        self._finished.append(Finished(run.claimed, outcome, run.started, monotonic()))
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


def _end_of_patience(run: Run) -> float:
    """When a handler that was interrupted is left behind; at a shutdown the agenda says so."""
    if run.reason is None or run.reason is WorkerShutdown:
        return math.inf
    return run.interrupted + TIMEOUT_GRACE


def _next_moment(run: Run) -> float:
    if run.reason is None:
        return math.inf if run.deadline is None else run.deadline
    return _end_of_patience(run)
