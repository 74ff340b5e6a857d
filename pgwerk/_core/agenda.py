"""What a worker does next: a small machine that is told events and the time, and answers with a plan.

It never waits, asks or reads a clock, so that the same agenda drives every kind of worker and its races are tested
in microseconds. Times are seconds on any clock that only goes forward.

It answers three questions, each of which has its own state:

    how far is the worker on its way out?      `Phase`: RUN, DRAIN, GIVE_BACK, ABANDON, only ever forward
        stop, or the end of the shutdown's time, goes on to the next
    when does it look for jobs again?          `attention.State`, see there
    what is due besides?                       a moment for each `Duty`, moved on when it is handed out

and claims as many jobs as there is room for: the slots, and a buffer that grows with how fast jobs end (`rate`).

What always holds: a claim asks for no more than the slots and the buffer leave room for; outside of RUN there is none,
nor a duty but those that the jobs it has need; in RUN, a plan with something to do has no wait, and a wait ends with
the next moment of any of the three; a burst is finished when nothing is held, due or heard, and the last claim came
back short.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from pgwerk._core.attention import Attention
from pgwerk._core.rate import Rate

MAX_CLAIM = 500
STALE_BUFFER = 0.25
"""A buffered job that nobody starts for so long goes back to the others."""
GATHER = 0.005
"""While jobs wait for a slot, a turn that would claim nothing is put off for so long: more will have ended by then."""
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
        self._phase = Phase.RUN
        self._deadline = math.inf
        self._attention = Attention(pace.poll, now)
        self._rate = Rate(pace.concurrency, now)
        self._next = {duty: now if duty.rule.at_start else now + duty.rule.interval(pace) for duty in Duty}
        self._turned = -math.inf

    # Events -----------------------------------------------------------------------

    def claiming(self) -> None:
        """A claim is about to be sent; what is heard from here on may be too late for it."""
        self._attention.sent()

    def claimed(self, asked: int, got: int, now: float, *, denied: int = 0) -> None:
        """A claim of *asked* jobs brought *got*; *denied* more were there but had no permit."""
        self._rate.claimed(now, idle=self.held == 0)
        self._attention.claimed(got, now, full=got + denied >= asked)
        self.held += got

    def turned(self, now: float) -> None:
        """A turn was answered."""
        self._turned = now

    def finished(self, count: int, now: float) -> None:
        """Handlers finished (or gave back) *count* jobs."""
        if not count:
            return
        self.held = max(0, self.held - count)
        self._rate.finished(count, now)

    def notified(self) -> None:
        """There may be jobs to claim."""
        self._attention.heard()

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
    def dozing(self) -> bool:
        """Claims came back short: the worker wants to be told of new jobs."""
        return self._attention.dozing

    @property
    def buffer(self) -> int:
        """How many jobs to hold beyond the slots."""
        return self._rate.buffer

    def plan(self, now: float) -> Plan:
        """Say what to do now."""
        self._advance_phase(now)
        if self._phase is not Phase.RUN:
            return self._closing_plan(now)
        self._attention.look(now)
        duties = self._take_duties(now)
        stale = self._stale(now)
        if stale:
            # Asked for once; again only after as long, should there be nothing to give back. Or the next claim would
            # bring back what is given back now.
            self._rate.forget(now, returning=self.held - self.pace.concurrency)
        claim = self._claim_size()
        finished = self.pace.burst and not self._attention.wanted and not self.held and not duties and self.dozing
        if claim or duties or stale:
            return Plan(duties, claim, 0.0, 0, stale, self._phase, finished)
        wait, gather = self._wait(now), self._gather(now)
        return Plan(wait=min(wait, self._turned + GATHER - now) if gather else wait, gather=gather, finished=finished)

    def _claim_size(self) -> int:
        if not self._attention.wanted:
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
        kept = self.buffer // 2 if self._attention.wanted else 0
        return max(1, self.held - self.pace.concurrency - kept + 1)

    def _stale(self, now: float) -> bool:
        return self.held > self.pace.concurrency and now - self._rate.last_finish > STALE_BUFFER

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
        moments += [self._attention.next_look, self._deadline]
        if self.held > self.pace.concurrency:
            moments.append(self._rate.last_finish + STALE_BUFFER + 0.001)
        return max(0.0, min(moments) - now)
