"""Outcomes that cannot be written now although all others can: each is tried again by itself, ever more rarely."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgwerk._core import backoff
from pgwerk._handlers.run import monotonic
from pgwerk.workers.crews.base import Finished

logger = logging.getLogger("pgwerk.worker")

PATIENCE = 0.1
"""How long one of them waits for a lock: the others wait with it."""
BUDGET = 0.5
"""Seconds of a turn that may be spent on writing them one by one."""
MANY = 100
LONGEST = 5.0
"""Seconds until one is tried again, at most."""


@dataclass(slots=True)
class _Entry:
    finished: Finished
    due: float
    tries: int


class Aside:
    """Keeps outcomes that were put off."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        """Whether there are so many that nothing more should be run that could not be written either."""
        return len(self._entries) >= MANY

    @property
    def ids(self) -> set[str]:
        """The jobs whose outcomes are kept."""
        return set(self._entries)

    @property
    def next_at(self) -> float:
        """When the next one is tried again."""
        return min((entry.due for entry in self._entries.values()), default=math.inf)

    def put(self, one: Finished, why: object) -> None:
        """Keep this one for later; the first time, say so."""
        entry = self._entries.get(one.claimed.id)
        tries = 1 if entry is None else entry.tries + 1
        if tries == 1:
            logger.warning(
                "cannot write the outcome of job %s (%s) yet, retrying later: %s",
                one.claimed.id, one.claimed.function, why,
            )  # fmt: skip
        pause = backoff.exponential(tries, base=0.25, cap=LONGEST)
        self._entries[one.claimed.id] = _Entry(one, monotonic() + pause, tries)

    def delay(self, some: Sequence[Finished]) -> None:
        """Keep these until the next turn, without having tried them."""
        now = monotonic()
        for one in some:
            _ = self._entries.setdefault(one.claimed.id, _Entry(one, now, 0))

    def retry(self, write: Callable[[Finished], None]) -> None:
        """Try those whose time has come, as many as there is time for; *write* may put them here again."""
        now = monotonic()
        due = sorted((entry for entry in self._entries.values() if entry.due <= now), key=lambda entry: entry.due)
        for entry in due:
            if monotonic() > now + BUDGET:
                break
            before = entry.tries
            # Whatever it raises, the outcome stays here.
            write(entry.finished)
            after = self._entries.get(entry.finished.claimed.id)
            if after is not None and after.tries == before:
                del self._entries[entry.finished.claimed.id]
