"""Signs of life that need no Postgres: a few numbers for each worker, in memory that its parent sees as well."""

import math
import mmap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pgwerk._core.child_liveness import Signs
from pgwerk._handlers.run import monotonic
from pgwerk.workers.coordinating.held import HeldJobs
from pgwerk.workers.crews.base import Crew

_FIELDS = 6
_WIDTH = 8


class SharedHeartbeats:
    """What one worker shows. Each number is written by one thread, and read by anybody at any time."""

    def __init__(self, cells: "memoryview[float] | None" = None) -> None:
        self._cells = memoryview(bytearray(_FIELDS * _WIDTH)).cast("d") if cells is None else cells
        self.clear(monotonic())

    def clear(self, now: float) -> None:
        """Show what a worker shows that has just been started."""
        self._cells[:] = memoryview(_NOTHING).cast("d")
        self._cells[0] = now
        self.enforce_at = math.inf

    def pulse(self, now: float) -> None:
        """Show that this thread runs."""
        self._cells[0] = now

    @property
    def beaten(self) -> float | None:
        """When the last heartbeat was sent that arrived; None for a worker that is not registered (any more)."""
        return self._cells[1] or None

    @beaten.setter
    def beaten(self, at: float | None) -> None:
        self._cells[1] = at or 0.0

    @property
    def enforce_at(self) -> float:
        """When a handler has to be stopped, at the earliest."""
        return self._cells[2]

    @enforce_at.setter
    def enforce_at(self, at: float) -> None:
        self._cells[2] = at

    @property
    def figures(self) -> tuple[int, int, int]:
        """How many jobs ended, failed, and are held."""
        return int(self._cells[3]), int(self._cells[4]), int(self._cells[5])

    @figures.setter
    def figures(self, values: tuple[int, int, int]) -> None:
        self._cells[3], self._cells[4], self._cells[5] = values

    def signs(self, *, stopped: bool = False) -> Signs:
        """What can be seen now."""
        return Signs(self._cells[0], self.beaten, self.enforce_at, stopped)


_NOTHING = bytes(_FIELDS * _WIDTH)


def shared_vitals(count: int) -> list[SharedHeartbeats]:
    """Make shared heartbeats for *count* processes that are forked after this."""
    cells = memoryview(mmap.mmap(-1, count * _FIELDS * _WIDTH)).cast("d")
    return [SharedHeartbeats(cells[at : at + _FIELDS]) for at in range(0, count * _FIELDS, _FIELDS)]


def next_enforcement(crew: Crew, ledger: HeldJobs, now: float) -> float:
    """When this worker has to stop a handler, at the earliest, also one that is about to start.

    A coordinator that has just enforced deadlines gets a fresh grace period for handlers already past theirs.
    """
    at = crew.next_deadline() or math.inf
    if ledger.timeouts:
        running = {run.claimed.id for run in crew.running()}
        at = min([at, *(now + seconds for job_id, seconds in ledger.timeouts.items() if job_id not in running)])
    return max(at, now)


@contextmanager
def every(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Call *act* at once and then so often, in a daemon thread, until the block ends."""
    over = threading.Event()

    def work() -> None:
        while True:
            act()
            if over.wait(seconds):
                break

    thread = threading.Thread(target=work, name="werk-pulse", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)
