"""Who runs the handlers of a worker: the contract, and what all crews do alike."""

import contextlib
import logging
import math
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pgwerk._core.claim import Claimed
from pgwerk._core.outcome import Outcome
from pgwerk._handlers.call import interrupted_outcome
from pgwerk._handlers.run import Interruption, Run, monotonic
from pgwerk.errors import JobTimeout, WerkError, WorkerShutdown
from pgwerk.workers.supervising.begun import BegunJobs

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


class Crew(ABC):
    """Whoever runs handlers for a coordinator, whose thread calls everything here but for what says otherwise.

    *wake* ends the coordinator's wait; it is all that a crew calls from threads of its own.
    """

    grace = TIMEOUT_GRACE

    def __init__(self, size: int, wake: Callable[[], None]) -> None:
        self._size = size
        self._wake = wake
        self._finished: deque[Finished] = deque()
        self._enough = 1
        self._sleeps_until = -math.inf
        self._interrupting = threading.Lock()
        """Held by the coordinator or the thread for timeouts while it interrupts a run, never by a handler's thread."""
        self.crippled = False
        """A handler could not be stopped: the process should be replaced."""
        self.begun: BegunJobs | None = None
        """Where to show which jobs have begun, if somebody wants to know."""
        self.blame: str | None = None
        """Why the worker has to end, if what it ran may be to blame."""
        self.broken: WerkError | None = None
        """Why nothing can run any more; what is held is given back, and the worker ends with this."""

    @abstractmethod
    def start(self) -> None:
        """Get ready to run handlers."""

    @abstractmethod
    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Run these, in order, as slots get free."""

    @abstractmethod
    def take_back(self) -> list[Claimed]:
        """Take back what has not been started."""

    @abstractmethod
    def running(self) -> Sequence[Run]:
        """What runs now."""

    @property
    @abstractmethod
    def waiting(self) -> bool:
        """Whether anything is submitted and not started."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; handlers have ended or are left behind."""

    @abstractmethod
    def _leave_behind(self, run: Run, *, replace: bool) -> None:
        """Report a handler that does not stop as interrupted, and ignore whatever it does; *replace* its slot."""

    def stopping(self) -> None:  # noqa: B027  # most need not know
        """Take note that the worker is on its way out."""

    def finished(self) -> list[Finished]:
        """Take the runs that are over."""
        found: list[Finished] = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._finished.popleft())
        return found

    def wake_at(self, count: int) -> bool:
        """Wake only when *count* runs are over and not taken; whether there are so many now."""
        self._enough = count
        return len(self._finished) >= count

    def interrupt(self, reason: Interruption, ids: Iterable[str] | None = None) -> None:
        """Interrupt running handlers; all without *ids*."""
        wanted = None if ids is None else set(ids)
        for run in self.running():
            if wanted is None or run.claimed.id in wanted:
                with self._interrupting:
                    run.interrupt(reason)

    def interrupt_overdue(self, now: float) -> None:
        """Interrupt handlers past their timeout; from any thread."""
        for run in self.running():
            if run.reason is None and run.deadline is not None and now >= run.deadline:
                with self._interrupting:
                    run.interrupt(JobTimeout)

    def next_interruption(self) -> float:
        """When `interrupt_overdue` has something to do next; from any thread."""
        return min((run.deadline for run in self.running() if run.reason is None and run.deadline), default=math.inf)

    def enforce(self, now: float) -> None:
        """Interrupt handlers past their timeout, and leave behind those that ignore it or their abort."""
        self.interrupt_overdue(now)
        for run in self.running():
            if run.reason is not None and now >= self._end_of_patience(run):
                self._leave_behind(run, replace=True)

    def next_deadline(self) -> float | None:
        """When `enforce` has something to do next."""
        moments = [self._next_moment(run) for run in self.running()]
        return min((moment for moment in moments if moment < math.inf), default=None)

    def sleep_until(self, moment: float) -> float:
        """Say that the coordinator waits until then; when it has to wake up for the sake of a handler.

        From now on, it is woken by every handler that begins and has to be stopped before that.
        """
        self._sleeps_until = moment
        deadline = self.next_deadline()
        return moment if deadline is None else min(moment, deadline)

    def awake(self) -> None:
        """Say that the coordinator does not wait: it looks at deadlines by itself before it does."""
        self._sleeps_until = -math.inf

    def _begins(self, run: Run) -> None:
        """Take note that a run, which is in `running` by now, begins; by whoever runs it."""
        # In this order there is no lock: the coordinator says until when it sleeps, and then looks at what runs.
        if run.deadline is not None and run.deadline < self._sleeps_until:
            self._wake()

    def abandon(self) -> None:
        """Leave behind every handler that still runs; each is reported as interrupted."""
        for run in self.running():
            self._leave_behind(run, replace=False)

    def _over(self, run: Run, outcome: Outcome | None = None) -> None:
        """Report a run: with what happened, or as stopped from outside."""
        outcome = outcome or interrupted_outcome(run.reason or WorkerShutdown, run.claimed)
        self._finished.append(Finished(run.claimed, outcome, run.started, monotonic()))
        if len(self._finished) >= self._enough:
            self._wake()

    def _end_of_patience(self, run: Run) -> float:
        """When a handler that was interrupted is left behind; at a shutdown the agenda says so."""
        if run.reason is None or run.reason is WorkerShutdown:
            return math.inf
        return run.interrupted + self.grace

    def _next_moment(self, run: Run) -> float:
        if run.reason is None:
            return math.inf if run.deadline is None else run.deadline
        return self._end_of_patience(run)


def deadline_of(claimed: Claimed, started: float) -> float | None:
    """When a job that starts now is out of time."""
    timeout = claimed.timeout_secs
    return None if timeout is None else started + timeout
