"""Which jobs of a worker have begun, in memory that its parent sees as well: known whatever kills the worker."""

import math
import mmap

from pgwerk._core.agenda import MAX_CLAIM
from pgwerk._core.claim import Claimed
from pgwerk._core.rate import MAX_BUFFER

_ID = 36
"""Bytes of a job's id."""


class BegunJobs:
    """One cell for each job that has begun and is not settled. Made before the fork, filled in the child.

    A cell is a claim, the moment when its handler is out of time, and the job's id. It is free while its claim is 0,
    which is therefore the last to be written. Each of the three is an array of its own: to write an element of an
    array is cheaper than to pack a record, and this is done for every job.
    """

    def __init__(self, threads: int) -> None:
        # No worker holds more.
        self._count = threads + MAX_BUFFER + MAX_CLAIM
        self._memory = mmap.mmap(-1, (self._count + 1) * (8 + 8 + _ID))
        """The last cell is used when there are too few of them."""
        view, size = memoryview(self._memory), 8 * (self._count + 1)
        self._claims = view[:size].cast("q")
        self._deadlines = view[size : 2 * size].cast("d")
        self._ids = view[2 * size :]
        self._free = list(range(self._count))
        self._places: dict[str, int] = {}

    # In the child -----------------------------------------------------------------

    def begin(self, claimed: Claimed, deadline: float | None) -> None:
        """Show that a handler begins; from any thread."""
        job_id = claimed.id
        try:
            at = self._free.pop()
        except IndexError:
            at = self._count
        else:
            self._places[job_id] = at
        self._ids[at * _ID : at * _ID + _ID] = job_id.encode()
        self._deadlines[at] = math.inf if deadline is None else deadline
        self._claims[at] = claimed.claim

    def settle(self, job_id: str) -> None:
        """Show that a job is settled; only the coordinator calls it."""
        at = self._places.pop(job_id, None)
        if at is not None:
            self._claims[at] = 0
            self._free.append(at)

    # In the parent ----------------------------------------------------------------

    def clear(self) -> None:
        """Show what a worker shows that has just been started."""
        self._memory[:] = bytes(len(self._memory))

    def read(self, now: float) -> dict[tuple[str, int], bool] | None:
        """The jobs (id, claim) that had begun, and whether each was past its timeout; None when that is not known."""
        if self._claims[self._count]:
            return None
        return {
            (str(self._ids[at * _ID : at * _ID + _ID], "ascii"), claim): self._deadlines[at] < now
            for at, claim in enumerate(self._claims)
            if claim
        }
