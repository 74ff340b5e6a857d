"""One turn of a worker: what ended is written and what is free is filled, in one round trip.

    compose    what is over and what is free become a `Sent`: what to ask for, and which runs it settles
    exchange   it is sent; while Postgres works on it, what the turn before brought is started
    apply      what it wrote is let go; what it claimed is kept, and started during the next exchange, or by `begin`

At any time, a run that is over is in exactly one of: the outcomes, a turn that is being exchanged, a transaction of
the settler. A turn that fails puts its runs back, or parts them: what is locked or refused is written by itself.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgwerk._app.ports import WorkerConnection
from pgwerk._core.agenda import Agenda
from pgwerk._core.claim import Claim, Claimed
from pgwerk._core.job import DequeueStrategy
from pgwerk._core.lifecycle import DONE, Verdict, decide
from pgwerk._core.operations.settle import release_waiting
from pgwerk._core.operations.turn import Answer, Turn, turn
from pgwerk._core.outcome import SUCCEEDED, Aborted, Failed, Report, Succeeded
from pgwerk._core.procedures.isolate import is_locked, refuses_a_value
from pgwerk._handlers.run import monotonic
from pgwerk.errors import WerkError
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.coordinating.outcomes import Outcomes, logger, report_of
from pgwerk.workers.coordinating.reach import Reach
from pgwerk.workers.coordinating.settling import Settler
from pgwerk.workers.coordinating.unclaimable import UnclaimableJobs
from pgwerk.workers.crews.base import Finished

_PARENTS = (Succeeded, Failed)
"""Ends that others may have waited for."""


@dataclass(slots=True)
class Sent:
    """A turn on its way."""

    ask: Turn
    finished: list[Finished]
    """The runs that were over; those with more consequences than a row of their own are settled after it."""

    @property
    def needed(self) -> bool:
        """Whether there is anything to ask for."""
        ask = self.ask
        return bool(ask.count or self.finished or ask.parents or ask.keys or ask.dozing is not None)


class TurnLoop:
    """Sends turns, one after the other."""

    def __init__(
        self,
        identity: Identity,
        session: WorkerConnection,
        agenda: Agenda,
        strategy: DequeueStrategy,
        start: Callable[[Sequence[Claimed]], None],
        max_lost: int,
    ) -> None:
        self._identity = identity
        self._session = session
        self._agenda = agenda
        self._start = start
        self.outcomes = Outcomes(agenda)
        self._reach = Reach(identity.queues, strategy)
        self._settler = Settler(identity, session, agenda, self.outcomes, max_lost)
        self._unclaimable = UnclaimableJobs(identity, session, agenda, self.outcomes.ledger)
        self._max_lost = max_lost
        """How many times a job may be lost that has no limit of its own."""
        self._refused = False
        """Whether the last turn had outcomes to write, and failed."""
        self._fresh: Claim | None = None
        """What was claimed last, before `begin`."""
        self._dozing: bool | None = None
        """Whether producers think that this worker sleeps; None when that is not known."""

    def thought_to_doze(self, dozing: bool | None) -> None:
        """Take note of what producers think: the database may have forgotten, or others took us for dead.

        It was so a moment ago. What differs from what we think is written again, whoever is right.
        """
        if dozing is not self._dozing:
            self._dozing = None

    def take(self, count: int, *, doze: bool) -> bool:
        """Write what ended and claim *count* jobs, which `begin` starts; False when there was nothing to ask for."""
        claimable = self._claimable(count)
        # Until this turn has gone well.
        self._refused = bool(self.outcomes.unsettled)
        sent = self._compose(claimable, doze=doze)
        taken = sent.needed
        if taken:
            self._exchange(sent)
        else:
            self.begin()
        self._refused = False
        if self.outcomes.aside and self.outcomes.aside.next_at <= monotonic():
            self.begin()
            self._settler.retry()
        return taken

    def begin(self) -> None:
        """Start what the last turn claimed, if that has not been done."""
        claim, self._fresh = self._fresh, None
        if claim is not None:
            self.outcomes.ledger.add(claim.jobs)
            self._start(claim.jobs)

    # Compose ----------------------------------------------------------------------

    def _claimable(self, count: int) -> int:
        # While Postgres refuses what ended, nothing more is run that could not be written either.
        if self._refused or self.outcomes.aside.full:
            return 0
        return self._unclaimable.limit(count)

    def _compose(self, count: int, *, doze: bool) -> Sent:
        outcomes, reach = self.outcomes, self._reach
        finished = outcomes.take()
        ask = Turn(
            worker=self._identity.id,
            queues=reach.ranges(monotonic()) if count else (),
            count=count,
            in_turns=reach.in_turns,
            each=reach.each(count),
            skip=self._unclaimable.skip(),
            closing=self._plain_verdicts(finished),
            retiring=outcomes.ledger.retiring,
            parents=outcomes.parents,
            keys=sorted(outcomes.keys),
            dozing=doze if doze is not self._dozing else None,
        )
        return Sent(ask, finished)

    def _plain_verdicts(self, finished: Sequence[Finished]) -> list[tuple[Report, Verdict]]:
        """The verdicts of jobs whose end is one row and one execution."""
        now, draw, max_lost = monotonic(), random.random, self._max_lost
        return [
            (
                report_of(one, now),
                # What most jobs come to, without a look at the job itself.
                DONE
                if one.claimed.bare and one.outcome is SUCCEEDED
                else decide(one.claimed.job, one.outcome, draw(), max_lost),
            )
            for one in finished
            if one.claimed.plain and not isinstance(one.outcome, Aborted)
        ]

    # Exchange ---------------------------------------------------------------------

    def _exchange(self, sent: Sent) -> None:
        self._agenda.claiming()
        try:
            # What the last turn brought is read and started while Postgres works on this one.
            answer = self._session.run(turn(sent.ask), self.begin)
        except WerkError as error:
            self.begin()
            self._part(sent, error)
        else:
            self._apply(sent, answer)

    def _part(self, sent: Sent, error: WerkError) -> None:
        """A turn failed: find what was wrong with it, and do not let that hold up the rest. Raises what it is not."""
        finished = sent.finished
        if finished and is_locked(error):
            self._settler.part_from_locked(finished, error)
        elif not refuses_a_value(error):
            self.outcomes.unsettled = finished
            raise error
        elif sent.ask.closing:
            logger.warning("Postgres refused a batch of outcomes; writing them one by one: %s", error)
            self._settler.one_by_one(finished)
        else:
            self.outcomes.unsettled = finished
            self._unclaimable.isolate(sent.ask, error)
            self._reach.reset()

    # Apply ------------------------------------------------------------------------

    def _apply(self, sent: Sent, answer: Answer) -> None:
        outcomes, ask = self.outcomes, sent.ask
        outcomes.ledger.retiring, outcomes.parents, outcomes.keys = [], [], set()
        self._agenda.turned(monotonic())
        # What this turn does not change, producers thought before it.
        self._dozing = self._dozing if ask.dozing is None else ask.dozing
        # None, nearly always.
        verdicts = {report.job_id: verdict for report, verdict in ask.closing if verdict is not DONE}
        outcomes.expect(verdicts.values())
        done, left = _divided(sent.finished, answer.closed)
        # Before what was claimed is looked at: a job that went back in this turn may have come again in it.
        outcomes.written(done, verdicts)
        if answer.readied:
            self._agenda.notified()
        if answer.claim is not None:
            self._claimed(ask.count, answer.claim)
        outcomes.parents = [one.claimed.id for one in sent.finished if isinstance(one.outcome, _PARENTS)]
        if left or answer.late:
            self.begin()
        if left:
            self._settler.settle(left)
        if answer.late:
            _ = self._session.run(release_waiting(answer.late))
            self._agenda.notified()

    def _claimed(self, asked: int, claim: Claim) -> None:
        now, got = monotonic(), len(claim)
        self._unclaimable.claimed(got)
        possible = self._reach.claimed(asked, claim, now)
        self._agenda.claimed(possible, got, now, denied=claim.passed_over)
        self.outcomes.keys.update(claim.denied)
        if got:
            self._fresh = claim


def _divided(finished: list[Finished], ids: Sequence[str]) -> tuple[list[Finished], list[Finished]]:
    """Those with these ids, which are theirs in any case, and the others."""
    if len(ids) == len(finished):
        return finished, []
    chosen = set(ids)
    inside = [one for one in finished if one.claimed.id in chosen]
    return inside, [one for one in finished if one.claimed.id not in chosen]
