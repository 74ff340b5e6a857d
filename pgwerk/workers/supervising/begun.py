"""Which jobs of a worker have begun, in memory that its parent sees as well: known whatever kills the worker."""

import math
import mmap
from struct import Struct

from pgwerk._core.agenda import MAX_BUFFER, MAX_CLAIM
from pgwerk._core.claim import Claimed

_CELL = Struct("=36s4xdq")
"""The job, when its handler is out of time, and its claim: the last to be written, without which a cell is free."""
_FREE = bytes(_CELL.size)


class BegunJobs:
    """One cell for each job that has begun and is not settled. Made before the fork, filled in the child."""

    def __init__(self, threads: int) -> None:
        # No worker holds more.
        self._count = threads + MAX_BUFFER + MAX_CLAIM
        self._memory = mmap.mmap(-1, (self._count + 1) * _CELL.size)
        """The last cell is used when there are too few of them."""
        self._free = list(range(0, self._count * _CELL.size, _CELL.size))
        """Where free cells are."""
        self._places: dict[str, int] = {}

    # In the child -----------------------------------------------------------------

    def begin(self, claimed: Claimed, deadline: float | None) -> None:
        """Show that a handler begins; from any thread."""
        try:
            at = self._free.pop()
        except IndexError:
            at = self._count * _CELL.size
        else:
            self._places[claimed.id] = at
        _CELL.pack_into(
            self._memory, at, claimed.id.encode(), math.inf if deadline is None else deadline, claimed.claim
        )

    def settle(self, job_id: str) -> None:
        """Show that a job is settled; only the coordinator calls it."""
        at = self._places.pop(job_id, None)
        if at is not None:
            self._memory[at : at + _CELL.size] = _FREE
            self._free.append(at)

    # In the parent ----------------------------------------------------------------

    def clear(self) -> None:
        """Show what a worker shows that has just been started."""
        self._memory[:] = bytes(len(self._memory))

    def read(self, now: float) -> dict[tuple[str, int], bool] | None:
        """The jobs (id, claim) that had begun, and whether each was past its timeout; None when that is not known."""
        *cells, too_many = _CELL.iter_unpack(self._memory[:])
        if too_many[2]:
            return None
        return {(job_id.decode(), claim): deadline < now for job_id, deadline, claim in cells if claim}
