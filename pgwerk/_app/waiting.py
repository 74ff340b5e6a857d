"""Waiting for jobs to end, without the waiting: who waits for what, how long yet, and when to look again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgwerk._core import options as opt
from pgwerk._core.notifications import parse_done
from pgwerk._core.statements.queries import End
from pgwerk._core.statuses import TERMINAL
from pgwerk.errors import JobNotFound, JobTimeout

LINGER = 30.0
"""Seconds that the listening connection is kept when nobody waits, and that pass until it is tried again."""

LISTEN_SECONDS = 5.0
"""The longest that somebody waits for that connection; without it (Postgres is full, a pooler) polling does."""

LAST_LOOK = 1.0
"""Seconds that a look may take although the time is over: who waits for 0 s wants to know how it is now."""


class TimeLeft(float):
    """What is left of a timeout whose first part went by otherwise; errors speak of the whole of it."""

    whole: float

    @classmethod
    def of(cls, timeout: float | None, left: float | None) -> "TimeLeft | None":
        """The rest of a timeout; None when there is none."""
        if timeout is None or left is None:
            return None
        found = cls(max(0.0, left))
        found.whole = timeout
        return found


class Ends:
    """The jobs that somebody waits for, and how long yet; the clock is the caller's."""

    def __init__(self, ids: Sequence[str], timeout: float | None, poll_interval: float, now: float) -> None:
        self.left = sorted(set(ids))
        """Those that have not ended, as far as is known."""
        self._poll = opt.seconds("poll_interval", poll_interval, positive=True)
        self._timeout = timeout.whole if isinstance(timeout, TimeLeft) else timeout
        self._deadline = None if timeout is None else now + timeout

    def seen(self, ends: Sequence[End]) -> None:
        """Take note of how far those that are `left` are; raises JobNotFound."""
        missing = set(self.left) - {end.id for end in ends}
        if missing:
            raise JobNotFound(min(missing))
        self.left = sorted(end.id for end in ends if end.status not in TERMINAL)

    def patience(self, now: float, trouble: Exception | None = None) -> float:
        """Seconds to wait for news until the next look; raises JobTimeout when the time is over.

        *trouble*: why the last look failed.
        """
        if self._deadline is None:
            return self._poll
        remaining = self._deadline - now
        if remaining <= 0:
            more = f" and {len(self.left) - 1} more" if len(self.left) > 1 else ""
            seconds = f"{self._timeout or 0.0:g} s"
            if trouble is not None:
                raise JobTimeout(f"job {self.left[0]}{more} is not known to have finished within {seconds}: {trouble}")
            raise JobTimeout(f"job {self.left[0]}{more} is still unfinished after {seconds} (it keeps running)")
        return min(self._poll, remaining)

    def remaining(self, now: float) -> float | None:
        """Seconds until the time is over, a moment at least for a look; None when it never is."""
        return None if self._deadline is None else max(LAST_LOOK, self._deadline - now)

    def for_listening(self, now: float) -> float:
        """Seconds that the listening connection may take."""
        if self._deadline is None:
            return LISTEN_SECONDS
        return min(LISTEN_SECONDS, max(0.0, self._deadline - now))


class Listening:
    """Whether to try to listen, where nobody does yet; the clock is the caller's.

    It is tried whenever somebody waits, and at once again after the connection was lost. When it cannot be had, all
    who wait poll for a while before the next try; behind a pooler that swallows notifications, for good.
    """

    def __init__(self) -> None:
        self.deaf = False
        """Notifications were sent and not heard."""
        self._not_before = 0.0

    def promising(self, now: float) -> bool:
        """Whether to try."""
        return not self.deaf and now >= self._not_before

    def failed(self, now: float) -> None:
        """Take note that the connection could not be had."""
        self._not_before = now + LINGER


@dataclass(eq=False)
class Wait:
    """Somebody who waits for some jobs."""

    ids: frozenset[str]
    wake: Callable[[], None]


class Waits:
    """Everybody who waits, by what for. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._by_id: dict[str, set[Wait]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def add(self, wait: Wait) -> None:
        """Wake this one when one of its jobs ends."""
        for id_ in wait.ids:
            self._by_id.setdefault(id_, set()).add(wait)

    def discard(self, wait: Wait) -> None:
        """Take that back, also where it was done by half or not at all."""
        for id_ in wait.ids:
            others = self._by_id.get(id_, set())
            others.discard(wait)
            if not others:
                _ = self._by_id.pop(id_, None)

    def tell(self, payload: str) -> None:
        """Wake whom a notification concerns."""
        for wait in {wait for id_ in parse_done(payload) for wait in self._by_id.get(id_, ())}:
            wait.wake()

    def wake_all(self) -> None:
        """Wake everybody: notifications may have been missed."""
        for wait in {wait for waits in self._by_id.values() for wait in waits}:
            wait.wake()
