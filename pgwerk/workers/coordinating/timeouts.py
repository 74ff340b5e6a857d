"""The thread that stops handlers whose time is over while the coordinator waits for an answer or a connection.

It sleeps until the first moment at which a job of this worker can be out of time:

    a job that has begun        at its deadline
    one that has not            its timeout from now, at the earliest
    one that is claimed later   the coordinator says so, see `expect`

There is no lock between the two: the thread says until when it sleeps before it looks at what there is, and the
coordinator adds a job before it looks until when the thread sleeps. Whoever comes second sees the other.
"""

import contextlib
import logging
import math
import threading

from pgwerk._handlers.run import monotonic
from pgwerk.workers.coordinating.held import HeldJobs
from pgwerk.workers.crews.base import Crew

logger = logging.getLogger("pgwerk.worker")

STEP = 0.02
"""Seconds between two looks at least: a handler that is just beginning or ending cannot be interrupted."""
END_SECONDS = 1.0


class TimeoutThread:
    """Interrupts handlers that are past their timeout. It starts with the first job that has one."""

    def __init__(self, crew: Crew, ledger: HeldJobs) -> None:
        self._crew = crew
        self._ledger = ledger
        self._until = math.inf
        """Until when it sleeps, unless it is woken."""
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._over = False

    # From the coordinator ---------------------------------------------------------

    def expect(self, at: float) -> None:
        """Take note that a job, which is in the ledger by now, may be out of time at *at*."""
        if at >= self._until:
            return
        if self._thread is not None:
            self._changed.set()
            return
        # Where no thread can be started, the coordinator stops handlers by itself whenever it does not wait.
        with contextlib.suppress(RuntimeError):
            thread = threading.Thread(target=self._run, name="pgwerk-timeouts", daemon=True)
            thread.start()
            self._thread = thread

    def stop(self) -> None:
        """Interrupt nothing more."""
        self._over = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join(END_SECONDS)

    # The thread -------------------------------------------------------------------

    def _run(self) -> None:
        while not self._over:
            self._changed.clear()
            self._until = math.inf
            now = monotonic()
            try:
                self._crew.interrupt_overdue(now)
                self._until = until = max(self._next(now), now + STEP)
            except Exception:
                # The last resort: without this thread, timeouts wait for the coordinator.
                logger.exception("a look at the timeouts of handlers failed; trying again")
                until = now + 1.0
            _ = self._changed.wait(None if until == math.inf else min(until - now, threading.TIMEOUT_MAX))

    def _next(self, now: float) -> float:
        """When the next handler may be out of time."""
        begun = {run.claimed.id for run in self._crew.running() if run.deadline is not None}
        timeouts = list(self._ledger.timeouts.items())
        waiting = min((seconds for job_id, seconds in timeouts if job_id not in begun), default=math.inf)
        return min(self._crew.next_interruption(), now + waiting)
