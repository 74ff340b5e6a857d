"""Between the coordinator and its crew: a job whose beginning has to be on record begins when that is written."""

from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter

from pgwerk._core.claim import Claimed
from pgwerk.workers.crews.base import Crew

Record = Callable[[Sequence[Claimed]], set[str]]
"""Writes down that these jobs begin now; the ids of those that may."""


_is_bare = attrgetter("bare")


class Gate:
    """Hands jobs to a crew in their order; the watched ones only when there is a free slot, and after the record.

    What waits in the crew for a slot is nobody's business when the worker dies: it may not have begun, and is free of
    charge. A watched job has had this benefit, or must not have it, so that its record has to be exact.

    A job whose next loss would be its last runs alone: it may be what kills the workers, or only have been beside it.
    """

    def __init__(self, crew: Crew, size: int, max_lost: int) -> None:
        self._crew = crew
        self._size = size
        self._max_lost = max_lost
        self._watch_all = max_lost == 0
        """Whether a job without a limit of its own must not be lost at all."""
        self._alone = False
        """Whether what runs must stay alone."""
        self._queue: deque[Claimed] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def waiting(self) -> bool:
        """Whether anything is submitted and not started."""
        return bool(self._queue) or self._crew.waiting

    @property
    def closed(self) -> bool:
        """Whether somebody runs alone, or waits for that: nothing more should be claimed."""
        return self._alone or (bool(self._queue) and self._is_on_its_last(self._queue[0]))

    def surplus(self) -> list[Claimed]:
        """Take back what would have to wait until somebody has run alone."""
        if not self.closed:
            return []
        kept = 0 if self._alone else 1
        found = list(self._queue)[kept:]
        for _ in found:
            _ = self._queue.pop()
        return found

    def submit(self, jobs: Sequence[Claimed]) -> None:
        """Run these, in order, as slots get free."""
        if self._alone:
            self._queue.extend(jobs)
            return
        if not self._queue and not self._watch_all and all(map(_is_bare, jobs)):
            # Nearly always.
            self._crew.submit(jobs)
            return
        if not self._queue:
            free = next((at for at, one in enumerate(jobs) if self._is_watched(one)), len(jobs))
            self._crew.submit(jobs[:free])
            jobs = jobs[free:]
        self._queue.extend(jobs)

    def take_back(self) -> list[Claimed]:
        """Take back what has not been started."""
        found = [*self._crew.take_back(), *self._queue]
        self._queue.clear()
        return found

    def admit(self, busy: int, record: Record) -> list[Claimed]:
        """Let in what may begin, given how many jobs the crew has; those that must not begin any more come back."""
        refused: list[Claimed] = []
        self._alone = self._alone and busy > 0
        while self._queue and not self._alone:
            if not self._is_watched(self._queue[0]):
                self._crew.submit([self._queue.popleft()])
                busy += 1
                continue
            next_ones: list[Claimed] = []
            for one in self._queue:
                if busy + len(next_ones) >= self._size or not self._is_watched(one):
                    break
                if self._is_on_its_last(one):
                    next_ones += [one] if not busy and not next_ones else []
                    break
                next_ones.append(one)
            if not next_ones:
                break
            # Should this fail, they are still here.
            may = record(next_ones)
            for one in next_ones:
                _ = self._queue.popleft()
                if one.id in may:
                    busy += 1
                    self._alone = self._is_on_its_last(one)
                    self._crew.submit([one])
                else:
                    refused.append(one)
        return refused

    def _is_on_its_last(self, one: Claimed) -> bool:
        if one.bare:
            return False
        job = one.job
        return job.lost > 0 and job.lost >= (self._max_lost if job.max_lost is None else job.max_lost)

    def _is_watched(self, one: Claimed) -> bool:
        if one.bare:
            return self._watch_all
        return one.watched or (self._watch_all and one.job.max_lost is None)
