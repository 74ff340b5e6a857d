"""The runs of a worker that are over, until each is written, and what their ends leave to be looked at.

unsettled   to be written in the next turn
aside       could not be written when the others were, and is tried again by itself
written     gone from here and from the ledger
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pgwerk._core.agenda import Agenda, Phase, Plan
from pgwerk._core.claim import Claimed
from pgwerk._core.lifecycle import Verdict
from pgwerk._core.outcome import Failed, Interrupted, Report, Succeeded, TimedOut
from pgwerk._handlers.run import monotonic
from pgwerk.workers.coordinating.aside import Aside
from pgwerk.workers.coordinating.held import HeldJobs
from pgwerk.workers.crews.base import Finished
from pgwerk.workers.reporting.endings import log_end
from pgwerk.workers.supervising.begun import BegunJobs

logger = logging.getLogger("pgwerk.worker")


class Outcomes:
    """Keeps what is over and not written; its jobs are in the ledger until then."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self.ledger = HeldJobs()
        self.blame: str | None = None
        """Why this worker has to end, if what it runs may be to blame."""
        self.begun: BegunJobs | None = None
        """Where somebody looks for what has begun, and is not settled."""
        self.unsettled: list[Finished] = []
        self.aside = Aside()
        self.parents: list[str] = []
        """Jobs that ended in the last turn: who committed a dependent meanwhile could not see it."""
        self.keys: set[str] = set()
        """Groups that the last turn released or denied: the two can pass each other."""
        self.settled = 0
        """How many outcomes were written."""
        self.failed = 0
        self.interrupted = 0
        """How many running jobs were interrupted by a shutdown and given back."""

    def nothing_left(self, plan: Plan) -> bool:
        """Whether there is nothing left to write or to look at again; to who gives up, what is aside is not."""
        if self.unsettled or self.parents or self.keys:
            return False
        return plan.phase is Phase.ABANDON or not self.aside

    def over(self, finished: Sequence[Finished]) -> None:
        """Take runs that are over: they are written in the next turn, whose claim may fill their places already."""
        if self.blame is not None:
            for one in finished:
                if isinstance(one.outcome, Interrupted):
                    one.outcome = replace(one.outcome, blame=self.blame)
        self.unsettled += finished
        self._agenda.finished(len(finished), monotonic())

    def give_back(self, jobs: Iterable[Claimed]) -> None:
        """Take jobs that have not been run, and go back to the others."""
        now = monotonic()
        self.over([Finished(one, Interrupted(), now, now) for one in jobs])

    def take(self) -> list[Finished]:
        """Take all that is unsettled; what cannot be written comes back by `put_back`."""
        finished, self.unsettled = self.unsettled, []
        return finished

    def put_back(self, finished: Sequence[Finished]) -> None:
        """Leave these to the next turn, before what has ended since; what is aside stays there."""
        ids = self.aside.ids
        self.unsettled = [*(one for one in finished if one.claimed.id not in ids), *self.unsettled]

    def missing(self, running: Iterable[str]) -> list[Claimed]:
        """Find held jobs that nobody knows of any more, given those that run and that nothing is on its way."""
        return self.ledger.without({*running, *(one.claimed.id for one in self.unsettled), *self.aside.ids})

    def written(self, finished: Sequence[Finished], verdicts: Mapping[str, Verdict]) -> None:
        """Let go of jobs that are settled; *verdicts* is what was written about them, by job."""
        verbose, begun = logger.isEnabledFor(logging.DEBUG), self.begun
        for one in finished:
            self.ledger.settle(one.claimed.id)
            if begun is not None:
                begun.settle(one.claimed.id)
            if verbose or not isinstance(one.outcome, Succeeded):
                self.failed += isinstance(one.outcome, Failed | TimedOut)
                self.interrupted += isinstance(one.outcome, Interrupted) and one.outcome.started
                log_end(one, verdicts.get(one.claimed.id))
        self.settled += len(finished)

    def expect(self, verdicts: Iterable[Verdict]) -> None:
        """Wake up when the next attempts and repetitions are due."""
        both = ((delay, v.uncount) for v in verdicts for delay in (v.delay, v.repeat) if delay is not None)
        # What is given back is for others, unless it has to wait.
        delays = [delay for delay, given_back in both if delay or not given_back]
        if delays:
            self._agenda.due_in(min(delays), monotonic())
            if not min(delays):
                self._agenda.notified()


def report_of(one: Finished, now: float) -> Report:
    """What to write about a run that is over."""
    return Report(one.claimed.id, one.claimed.claim, one.outcome, now - one.began, now - one.ended)
