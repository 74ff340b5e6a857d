"""What a worker does next: a small machine that is told events and the time, and answers with a plan.

It never waits, asks or reads a clock, so that the same agenda drives every kind of worker and its races are tested
in microseconds. Times are seconds on any clock that only goes forward.

A claim that brought       leaves it   to look for jobs again
    all it asked for       awake       at once, as far as there is room
    some, in a stream      awake       after SOON
    less, when awake       dozing      after each of REPOLLS, then at the next poll
    less, after news       dozing      after the first of REPOLLS: the job may have been locked
    less, when dozing      dozing      at the next poll
and at once when something is heard, also between the sending of a claim and its answer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

BUFFER_SECONDS = 0.05
"""How much work, at the observed rate, is claimed ahead of free slots."""
STEEP = 8
"""The observed rate grows at most so many times at once."""
MAX_BUFFER = 1000
MAX_CLAIM = 500
STALE_BUFFER = 0.25
"""A buffered job that nobody starts for so long goes back to the others."""
STREAM = 3
"""So many claims in a row that brought several jobs, though not all asked for, are a stream of them."""
SOON = 0.01
"""While jobs stream in, a worker looks again after this: cheaper than to be told of each by its producer."""
GATHER = 0.005
"""While jobs wait for a slot, a turn that would claim nothing is put off for so long: more will have ended by then."""
REPOLLS = (0.05, 0.25)
"""A worker that goes idle looks again after these: a producer may have decided not to notify just before.

One that was woken for less than it could take looks again after the first: a claim passes over locked rows."""
LIVENESS = 2.5
"""Heartbeats until a silent worker counts as dead. Under 3, so that its jobs are back within three."""
INTERRUPT_GRACE = 5.0
"""Seconds between interrupting handlers at shutdown and giving their jobs back over their heads."""
CLOSING_WAIT = 0.05
"""Seconds between looks at the handlers on the way out."""


class Phase(Enum):
    """How far a worker is on its way out."""

    RUN = auto()
    DRAIN = auto()
    """Claims nothing more; handlers may finish."""
    GIVE_BACK = auto()
    """Handlers are interrupted, their jobs go back."""
    ABANDON = auto()
    """Handlers that ignored it are left behind, their jobs go back over their heads."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How much a worker does at once, and how often (seconds) it looks after things."""

    concurrency: int = 10
    heartbeat: float = 10.0
    poll: float = 5.0
    sweep: float = 60.0
    abort: float = 1.0
    shutdown: float = 30.0
    burst: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """When a duty is due."""

    purpose: str
    """What it is for, as a log line says it: "could not …"."""
    interval: Callable[[Pace], float]
    """Seconds from one time to the next."""
    at_start: bool = True
    """Due as soon as the worker runs; otherwise after one interval."""
    needs_jobs: bool = False
    """Skipped while the worker holds no job."""
    in_closing: bool = False
    """Also carried out while the worker shuts down."""


class Duty(Enum):
    """What a worker does apart from running jobs. A new one is a row here and one in `duties.ACTIONS`."""

    HEARTBEAT = Rule(
        "compare what is held with what is claimed", lambda pace: pace.heartbeat, at_start=False, in_closing=True
    )
    RECOVER = Rule("look for the jobs of dead workers", lambda pace: pace.heartbeat)
    PROMOTE = Rule("queue scheduled jobs", lambda pace: pace.poll)
    SWEEP = Rule("sweep", lambda pace: pace.sweep)
    ABORTS = Rule("look for jobs to abort", lambda pace: pace.abort, at_start=False, needs_jobs=True, in_closing=True)

    def __init__(self, rule: Rule) -> None:
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now: duties, then a claim of so many jobs, then wait at most so long for an event."""

    duties: tuple[Duty, ...] = ()
    claim: int = 0
    wait: float = 0.0
    gather: int = 0
    """No turn before so many more runs are over, or *wait* is: by then it is worth its round trip."""
    return_buffer: bool = False
    """Give back what was claimed but not started."""
    phase: Phase = Phase.RUN
    finished: bool = False


class Agenda:
    """Decide what one worker does next."""

    def __init__(self, pace: Pace, now: float) -> None:
        self.pace = pace
        self.held = 0
        """Jobs claimed and not yet settled by a handler: running or buffered."""
        self.dozing = False
        """Claims came back short: the worker wants to be told of new jobs."""
        self._phase = Phase.RUN
        self._deadline = math.inf
        self._more = True
        self._heard = 0
        self._claiming = 0
        self._answered = 0
        self._repolls: tuple[float, ...] = ()
        self._several = 0
        self._next = {duty: now if duty.rule.at_start else now + duty.rule.interval(pace) for duty in Duty}
        self._poll_at = now + pace.poll
        self._rate = 0.0
        self._window_start = now
        self._window_count = 0
        self._last_finish = now
        self._returning = 0
        self._turned = -math.inf

    # Events -----------------------------------------------------------------------

    def claiming(self) -> None:
        """A claim is about to be sent; what is heard from here on may be too late for it."""
        self._claiming = self._heard

    def claimed(self, asked: int, got: int, now: float, *, denied: int = 0) -> None:
        """A claim of *asked* jobs brought *got*; *denied* more were there but had no permit."""
        if self.held == 0:
            # Time without jobs says nothing about how fast they are.
            self._window_start += now - self._last_finish
            self._last_finish = now
        self.held += got
        self._returning = 0
        self._poll_at = now + self.pace.poll
        full = got + denied >= asked
        self._more = full or self._heard != self._claiming
        news, self._answered = self._claiming != self._answered, self._claiming
        self._several = STREAM if full else self._several + 1 if got > 1 else self._several * (got > 0)
        if full:
            self.dozing, self._repolls = False, ()
        elif got and self._several >= STREAM:
            self.dozing, self._repolls = False, (now + SOON,)
        elif not self.dozing:
            self.dozing = True
            self._repolls = tuple(now + after for after in REPOLLS)
        elif news and not self._repolls:
            # The job that we were told of may have been locked for an instant, and nobody tells us again.
            self._repolls = (now + REPOLLS[0],)

    def turned(self, now: float) -> None:
        """A turn was answered."""
        self._turned = now

    def finished(self, count: int, now: float) -> None:
        """Handlers finished (or gave back) *count* jobs."""
        if not count:
            return
        self.held = max(0, self.held - count)
        self._last_finish = now
        # What is given back unstarted says nothing about the rate.
        returned = min(count, self._returning)
        self._returning -= returned
        self._window_count += count - returned
        elapsed = now - self._window_start
        if elapsed >= 0.02 or self._window_count >= 2 * self.pace.concurrency:
            # Up at once, though not on the word of a few, and down by halves: one slow batch is not yet slow work.
            most = STEEP * max(self._rate, self.pace.concurrency / BUFFER_SECONDS)
            rate = min(self._window_count / max(elapsed, 0.001), most)
            self._rate = max(rate, 0.5 * self._rate + 0.5 * rate)
            self._window_start, self._window_count = now, 0

    def notified(self) -> None:
        """There may be jobs to claim."""
        self._heard += 1
        self._more = True

    def do(self, duty: Duty, now: float) -> None:
        """Do *duty* as soon as possible."""
        self._next[duty] = min(self._next[duty], now)

    def due_in(self, seconds: float | None, now: float) -> None:
        """The earliest scheduled job known is due in *seconds*."""
        if seconds is not None:
            self._next[Duty.PROMOTE] = min(self._next[Duty.PROMOTE], now + max(0.0, seconds))

    def peers_expire_in(self, seconds: float | None, now: float) -> None:
        """Another worker counts as dead in *seconds*, unless it is heard of by then."""
        if seconds is not None:
            self._next[Duty.RECOVER] = min(self._next[Duty.RECOVER], now + max(0.0, seconds) + 0.01)

    def stop(self, now: float) -> None:
        """Stop: first time drain, second time give back at once."""
        if self._phase is Phase.RUN:
            self._phase, self._deadline = Phase.DRAIN, now + self.pace.shutdown
        elif self._phase is Phase.DRAIN:
            self._phase, self._deadline = Phase.GIVE_BACK, now + INTERRUPT_GRACE

    # Plan -------------------------------------------------------------------------

    @property
    def buffer(self) -> int:
        """How many jobs to hold beyond the slots: about 50 ms of work at the observed rate, none of slow work."""
        return min(int(self._rate * BUFFER_SECONDS), MAX_BUFFER)

    def plan(self, now: float) -> Plan:
        """Say what to do now."""
        self._advance_phase(now)
        if self._phase is not Phase.RUN:
            return self._closing_plan(now)
        if now >= self._poll_at or (self._repolls and now >= self._repolls[0]):
            self._repolls = tuple(at for at in self._repolls if at > now)
            self._poll_at = now + self.pace.poll
            self._more = True
        duties = self._take_duties(now)
        stale = self._stale(now)
        if stale:
            # Asked for once; again only after as long, should there be nothing to give back. What was observed
            # before says nothing any more, or the next claim would bring back what is given back now.
            self._rate, self._last_finish = 0.0, now
            self._window_start, self._window_count = now, 0
            self._returning = self.held - self.pace.concurrency
        claim = self._claim_size()
        finished = self.pace.burst and not self._more and not self.held and not duties and self.dozing
        if claim or duties or stale:
            return Plan(duties, claim, 0.0, 0, stale, self._phase, finished)
        wait, gather = self._wait(now), self._gather(now)
        return Plan(wait=min(wait, self._turned + GATHER - now) if gather else wait, gather=gather, finished=finished)

    def _claim_size(self) -> int:
        if not self._more:
            return 0
        slots, half = self.pace.concurrency, self.buffer // 2
        want = slots + 2 * half - self.held
        # Below the slots: claim at once. For the buffer: half of it at a time, when that is gone, so that claims stay
        # large and handlers have something to run meanwhile.
        if self.held < slots or want >= half:
            return max(0, min(want, max(slots, half), MAX_CLAIM))
        return 0

    def _gather(self, now: float) -> int:
        """How many runs to wait for before the next turn, or 0 for none."""
        if self.held <= self.pace.concurrency or now >= self._turned + GATHER:
            return 0
        # Half of the buffer is claimed again, see above; without more to claim, all that waits for a slot may run.
        kept = self.buffer // 2 if self._more else 0
        return max(1, self.held - self.pace.concurrency - kept + 1)

    def _stale(self, now: float) -> bool:
        return self.held > self.pace.concurrency and now - self._last_finish > STALE_BUFFER

    def _take_duties(self, now: float) -> tuple[Duty, ...]:
        due = []
        for duty, at in self._next.items():
            if at <= now and (self.held or not duty.rule.needs_jobs):
                due.append(duty)
                self._next[duty] = now + duty.rule.interval(self.pace)
        return tuple(due)

    def _advance_phase(self, now: float) -> None:
        if self._phase is Phase.DRAIN and now >= self._deadline:
            self._phase, self._deadline = Phase.GIVE_BACK, now + INTERRUPT_GRACE
        if self._phase is Phase.GIVE_BACK and now >= self._deadline:
            self._phase, self._deadline = Phase.ABANDON, math.inf

    def _closing_plan(self, now: float) -> Plan:
        duties = tuple(duty for duty in self._take_duties(now) if duty.rule.in_closing)
        return Plan(
            duties,
            wait=0.0 if duties else CLOSING_WAIT,
            return_buffer=self.held > 0,
            phase=self._phase,
            # What is abandoned is given back by whoever carries this out; nothing more is waited for.
            finished=self.held == 0 or self._phase is Phase.ABANDON,
        )

    def _wait(self, now: float) -> float:
        moments = [at for duty, at in self._next.items() if self.held or not duty.rule.needs_jobs]
        moments += [self._poll_at, self._deadline, *self._repolls[:1]]
        if self.held > self.pace.concurrency:
            moments.append(self._last_finish + STALE_BUFFER + 0.001)
        return max(0.0, min(moments) - now)
