"""A clock that goes on by itself and can be moved."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pgwerk._memory.guard import Guard
from pgwerk._memory.values import aware


class Clock:
    """The time of a store: that of the system, plus what it was moved by."""

    def __init__(self, guard: Guard | None = None, moved: Callable[[], None] | None = None) -> None:
        self._guard = guard or Guard()
        self._moved = moved
        self._offset = timedelta()
        self._frozen: datetime | None = None

    def now(self) -> datetime:
        """The time, aware."""
        with self._guard:
            return self._frozen if self._frozen is not None else self._system() + self._offset

    @staticmethod
    def _system() -> datetime:
        return datetime.fromtimestamp(time.time(), UTC)

    def advance(self, seconds: float | timedelta) -> datetime:
        """Move the clock forward (seconds or a timedelta) and return the time; raises ValueError for backward."""
        step = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
        if step < timedelta():
            raise ValueError(f"advance({seconds!r}): a clock is moved forward only; set() moves it anywhere")
        with self._guard:
            moment = self.now() + step
            self.set(moment)
            return moment

    def set(self, moment: datetime) -> None:
        """Go on from *moment* (aware, or UTC)."""
        with self._guard:
            if self._frozen is not None:
                self._frozen = aware(moment)
            else:
                self._offset = aware(moment) - self._system()
            if self._moved is not None:
                self._moved()

    def keep_up(self, moment: datetime) -> None:
        """Do not stand behind a moment that was handed out: what is advanced from here is later than that, too."""
        with self._guard:
            if self._frozen is not None:
                self._frozen = max(self._frozen, moment)

    def freeze(self) -> None:
        """Stand still until `resume`; `advance` and `set` still move it."""
        with self._guard:
            self._frozen = self.now()

    def resume(self) -> None:
        """Go on from where it stands."""
        with self._guard:
            if self._frozen is not None:
                self._offset, self._frozen = self._frozen - self._system(), None
