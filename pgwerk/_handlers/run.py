"""One run of a handler, seen from outside: what it is, since when, and why it was interrupted.

How a run is interrupted depends on where it runs: in a thread (`pgwerk._handlers.interrupt`), as a task of a loop
(`pgwerk._handlers.task`), in the main thread of a process of its own (`pgwerk.workers.forking.host`).
"""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from pgwerk._core.claim import Claimed
from pgwerk.errors import JobAborted, JobTimeout, WorkerShutdown

Interruption = type[JobTimeout] | type[JobAborted] | type[WorkerShutdown]
INTERRUPTIONS = (JobTimeout, JobAborted, WorkerShutdown)


@dataclass(eq=False, slots=True)
class Run:
    """One run of a handler."""

    claimed: Claimed
    started: float
    deadline: float | None
    reason: Interruption | None = None
    """Why it was interrupted; whatever the handler raises then, this is what happened."""
    interrupted: float = 0.0
    """When it was."""
    open: bool = False
    """Whether an interruption would reach the handler, or who catches it for the handler."""
    shields: int = 0

    def interrupt(self, reason: Interruption) -> None:
        """Interrupt the handler, from another thread; the first reason counts."""
        raise NotImplementedError

    def unshielded(self) -> None:
        """Take note that the last shield is gone; called by the handler's own thread."""

    def close(self) -> None:
        """Let nothing more be raised on account of this run; called by who runs it."""
        self.open = False

    def mark(self, reason: Interruption) -> bool:
        """Note why the run is interrupted; False when it is so already, or over."""
        if self.reason is not None or not self.open:
            return False
        self.interrupted = monotonic()
        self.reason = reason
        return True


_current: ContextVar[Run | None] = ContextVar("pgwerk_run", default=None)


def current_run() -> Run | None:
    """The run that this code belongs to, if it is a handler's."""
    return _current.get()


def set_current_run(run: Run | None) -> None:
    """Say what runs in this context."""
    _ = _current.set(run)


@contextlib.contextmanager
def shield() -> Iterator[None]:
    """Put off timeouts, aborts and shutdown until the end of the block: for a commit that must not be torn.

    Does nothing outside of a handler that a worker runs.
    """
    run = current_run()
    if run is None:
        yield
        return
    run.shields += 1
    try:
        yield
    finally:
        run.shields -= 1
        if not run.shields:
            run.unshielded()


def monotonic() -> float:
    """The clock of runs."""
    return time.monotonic()
