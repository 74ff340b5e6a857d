"""When a worker looks for jobs again: a small machine that is told what claims bring, what is heard, and the time.

    state      the last claim                      looks again
    BUSY       brought all that it asked for       at once, as far as there is room
    STREAM     brought several, as those before    after SOON
    WATCHFUL   brought less                        after each of REPOLLS
    DOZING     brought less, some time ago         with the next poll

    from / a claim brought    all    several, in a stream   less, after news    less
    BUSY, STREAM             BUSY   STREAM                 WATCHFUL            WATCHFUL
    WATCHFUL                 BUSY   STREAM                 WATCHFUL            WATCHFUL
    DOZING                   BUSY   STREAM                 WATCHFUL (once)     DOZING

WATCHFUL becomes DOZING with the last of its looks. In every state it looks at once when something is heard, also
between the sending of a claim and its answer, and at the latest with the next poll.

Invariants: who is told of every new job (`dozing`) is WATCHFUL or DOZING; only WATCHFUL and STREAM have looks to come.
"""

from enum import Enum, auto

STREAM = 3
"""So many claims in a row that brought several jobs, though not all asked for, are a stream of them."""
SOON = 0.01
"""While jobs stream in, a worker looks again after this: cheaper than to be told of each by its producer."""
REPOLLS = (0.05, 0.25)
"""A worker that goes idle looks again after these: a producer may have decided not to notify just before.

One that was woken for less than it could take looks again after the first: a claim passes over locked rows."""


class State(Enum):
    """What the last claims said."""

    BUSY = auto()
    STREAM = auto()
    WATCHFUL = auto()
    DOZING = auto()


class Attention:
    """Says when to look for jobs. Times are seconds on any clock that only goes forward."""

    def __init__(self, poll: float, now: float) -> None:
        self._poll = poll
        self._poll_at = now + poll
        self._state = State.BUSY
        self._looks: tuple[float, ...] = ()
        """Moments at which to look again before the next poll."""
        self.wanted = True
        """Whether to look for jobs now."""
        self._heard = False
        """Whether there was news since the last claim was sent."""
        self._news = False
        """Whether there was news that the claim which was sent last can have seen."""
        self._several = 0
        """How many claims in a row brought several jobs."""

    @property
    def dozing(self) -> bool:
        """Whether the worker wants to be told of new jobs."""
        return self._state is State.WATCHFUL or self._state is State.DOZING

    @property
    def next_look(self) -> float:
        """When to look again, if nothing is heard."""
        return min(self._poll_at, self._looks[0]) if self._looks else self._poll_at

    def heard(self) -> None:
        """There may be jobs to claim."""
        self._heard = self.wanted = True

    def sent(self) -> None:
        """A claim is about to be sent; what is heard from here on may be too late for it."""
        self._news, self._heard = self._news or self._heard, False

    def claimed(self, got: int, now: float, *, full: bool) -> None:
        """A claim brought *got* jobs; *full*: as many as it asked for."""
        news, self._news = self._news, False
        self.wanted = full or self._heard
        self._poll_at = now + self._poll
        self._count(got, full=full)
        if full:
            self._state, self._looks = State.BUSY, ()
        elif got and self._several >= STREAM:
            self._state, self._looks = State.STREAM, (now + SOON,)
        elif not self.dozing:
            self._state, self._looks = State.WATCHFUL, tuple(now + after for after in REPOLLS)
        elif self._state is State.DOZING and news:
            # The job that we were told of may have been locked for an instant, and nobody tells us again.
            self._state, self._looks = State.WATCHFUL, (now + REPOLLS[0],)

    def _count(self, got: int, *, full: bool) -> None:
        if full:
            self._several = STREAM
        elif got > 1:
            self._several += 1
        elif not got:
            self._several = 0

    def look(self, now: float) -> None:
        """Take note of the time."""
        if now < self.next_look:
            return
        self.wanted = True
        self._poll_at = now + self._poll
        self._looks = tuple(at for at in self._looks if at > now)
        if self._state is State.WATCHFUL and not self._looks:
            self._state = State.DOZING
