"""Which jobs of a worker have begun, in memory that its parent sees as well: known whatever kills the worker."""

import math
import mmap

from pgwerk._core.agenda import MAX_BUFFER, MAX_CLAIM
from pgwerk._core.statements.claims import Claimed

_ID = 36
_WIDTH = 8


class BegunJobs:
    """One cell for each job that has begun and is not settled. Made before the fork, filled in the child.

    A cell counts once its claim is written, which is the last thing that happens to it.
    """

    def __init__(self, threads: int) -> None:
        count = threads + MAX_BUFFER + MAX_CLAIM
        """No worker holds more."""
        self._claims = memoryview(mmap.mmap(-1, (count + 1) * _WIDTH)).cast("q")
        """By cell; the last one says that there were too few of them."""
        self._deadlines = memoryview(mmap.mmap(-1, count * _WIDTH)).cast("d")
        self._ids = mmap.mmap(-1, count * _ID)
        self._count = count
        self._free = list(range(count))
        self._cells: dict[str, int] = {}

    # In the child -----------------------------------------------------------------

    def begin(self, claimed: Claimed, deadline: float | None) -> None:
        """Show that a handler begins; from any thread."""
        try:
            cell = self._free.pop()
        except IndexError:
            self._claims[self._count] = 1
            return
        self._cells[claimed.id] = cell
        self._ids[cell * _ID : (cell + 1) * _ID] = claimed.id.encode()
        self._deadlines[cell] = math.inf if deadline is None else deadline
        self._claims[cell] = claimed.claim

    def settle(self, job_id: str) -> None:
        """Show that a job is settled; only the coordinator calls it."""
        cell = self._cells.pop(job_id, None)
        if cell is not None:
            self._claims[cell] = 0
            self._free.append(cell)

    # In the parent ----------------------------------------------------------------

    def clear(self) -> None:
        """Show what a worker shows that has just been started."""
        for cell, claim in enumerate(self._claims):
            if claim:
                self._claims[cell] = 0

    def read(self, now: float) -> dict[tuple[str, int], bool] | None:
        """The jobs (id, claim) that had begun, and whether each was past its timeout; None when that is not known."""
        if self._claims[self._count]:
            return None
        return {
            (self._ids[cell * _ID : (cell + 1) * _ID].decode(), claim): self._deadlines[cell] < now
            for cell, claim in enumerate(self._claims)
            if claim
        }
