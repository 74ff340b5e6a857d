"""Where a busy worker's claims begin: behind what it has claimed, not at the front of the queue.

The front of a claim index is where jobs have been: while somebody holds an old snapshot, their entries cannot be
cleaned away, and each claim would step over all of them. So a worker that gets all it asks for goes on where it
stopped. Somebody may get in before that place: a commit that took long, a job given back, a retry. Therefore it
looks from the front again as soon as a claim brings less than asked, and every now and then; jobs of higher
priority it looks for each time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

FRESH = 0.25
"""Seconds after which a claim begins at the front again."""
SHARE = 20.0
"""Where stepping over old entries takes long, at most this part (1/SHARE) of the time is spent on it."""
STALE = 30.0
"""Seconds after which a claim begins at the front in any case."""

Place = tuple[int, datetime, str]
"""Minus priority, scheduled_at, id: the order in which jobs are claimed."""


@dataclass(frozen=True, slots=True)
class Range:
    """One walk through the claim index of a queue."""

    queue: str
    place: int
    """Which of the queues it is, for taking turns."""
    first: Place | None = None
    """Where it begins; None: at the front."""
    below: int | None = None
    """Minus priority at which it ends; None: at the end."""


class Cursor:
    """Decide where the claims of one worker begin."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._fresh_until = 0.0
        self._started = 0.0
        self._usual = 0.0
        """How long a claim from the cursor takes, seconds."""
        self._whole = 0.0
        """How long the last claim from the front took."""
        self.whole = True
        """Whether the last claim began at the front of each queue."""

    def ranges(self, queues: Sequence[str], now: float) -> list[Range]:
        """Where a claim that is sent now should look."""
        if now >= self._fresh_until:
            self._places.clear()
        self._started = now
        self.whole = not self._places
        found: list[Range] = []
        for number, queue in enumerate(queues):
            place = self._places.get(queue)
            if place is None:
                found.append(Range(queue, number))
            else:
                found += [Range(queue, number, below=place[0]), Range(queue, number, first=place)]
        return found

    def claimed(self, last: Mapping[str, Place], now: float, *, full: bool) -> None:
        """A claim brought jobs of these queues, up to these places; *full*: as many as were asked for."""
        took = now - self._started
        if self.whole:
            # One that took long may have waited for something else: it takes two of them to mean old entries.
            rest = SHARE * (min(took, self._whole) - self._usual) if self._usual else 0.0
            self._fresh_until = now + min(max(FRESH, rest), STALE)
            self._whole = took
        else:
            self._usual = took if not self._usual else 0.9 * self._usual + 0.1 * took
        if not full:
            self.reset()
            return
        for queue, place in last.items():
            before = self._places.get(queue)
            if before is None or place > before:
                self._places[queue] = place

    def reset(self) -> None:
        """Begin at the front the next time."""
        self._places.clear()
