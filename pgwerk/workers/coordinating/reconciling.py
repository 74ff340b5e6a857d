"""The jobs between claim and outcome: let in, aborted, and compared with what runs here and what Postgres knows."""

import logging
from collections.abc import Callable, Sequence

from pgwerk._app.ports import WorkerConnection
from pgwerk._core.agenda import Agenda, Phase, Plan
from pgwerk._core.claim import Claimed
from pgwerk._core.operations.settle import settle
from pgwerk._core.outcome import Aborted, Interrupted, Report
from pgwerk._core.statements import running, workers
from pgwerk._handlers.run import monotonic
from pgwerk.errors import JobAborted, WerkError
from pgwerk.workers.coordinating.gate import Gate
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.coordinating.outcomes import Outcomes
from pgwerk.workers.crews.base import Crew, Finished

logger = logging.getLogger("pgwerk.worker")


class Reconciler:
    """Looks after what is held, between claim and outcome."""

    def __init__(
        self,
        identity: Identity,
        session: WorkerConnection,
        agenda: Agenda,
        crew: Crew,
        gate: Gate,
        outcomes: Outcomes,
        collect: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._session = session
        self._agenda = agenda
        self._crew = crew
        self._gate = gate
        self._outcomes = outcomes
        self._collect = collect
        self._missing: set[str] = set()
        """Jobs that were missing at the last look."""

    def admit(self, plan: Plan) -> bool:
        """Let jobs begin whose beginning has to be written down first; whether there is something to settle instead."""
        if plan.phase is not Phase.RUN or not (self._gate or self._gate.closed):
            return False
        in_crew = len(self._outcomes.ledger) - len(self._outcomes.unsettled) - len(self._gate)
        refused = self._gate.admit(in_crew, self._record)
        # Aborted or lost while they waited; or others can run them sooner.
        refused += self._gate.surplus()
        self._outcomes.give_back(refused)
        return bool(refused)

    def _record(self, jobs: Sequence[Claimed]) -> set[str]:
        return set(self._session.run(running.begin([(one.id, one.claim) for one in jobs])))

    def abort(self, ids: Sequence[str]) -> None:
        """Abort running jobs; those that only wait in the buffer end at once."""
        wanted = set(ids)
        self._crew.interrupt(JobAborted, wanted)
        waiting = self._gate.take_back()
        now = monotonic()
        self._outcomes.over([Finished(one, Aborted(), now, now) for one in waiting if one.id in wanted])
        self._gate.submit([one for one in waiting if one.id not in wanted])

    def reconcile(self) -> None:
        """Give back jobs that slipped through between claim and handler: they would stay active for ever.

        Only what is missing at two looks in a row: a job is on its way from the queue to a thread for an instant.
        """
        self._collect()
        missing = [] if self._gate.waiting else self._outcomes.missing(run.claimed.id for run in self._crew.running())
        lost = [one for one in missing if one.id in self._missing]
        self._missing = {one.id for one in missing}
        for one in lost:
            logger.error("giving back job %s (%s): it was lost inside this worker", one.id, one.function)
        self._outcomes.give_back(lost)
        self.give_back_strays()

    def give_back_strays(self) -> None:
        """Give back what we claimed in a turn whose answer was lost; its commit may come long after the loss."""
        me = self._identity.id
        for job_id, claim in self._session.run(running.stray(me, self._outcomes.ledger.claims)):
            logger.info("giving back job %s: this worker had claimed it without receiving the answer", job_id)
            _ = self._session.run(settle([Report(job_id, claim, Interrupted())], me))
            self._agenda.notified()

    def unbegun(self) -> list[Claimed]:
        """The jobs with a timeout whose handlers have not begun."""
        begun = {run.claimed.id for run in self._crew.running() if run.deadline is not None}
        over = {one.claimed.id for one in self._outcomes.unsettled} | self._outcomes.aside.ids
        held = self._outcomes.ledger.held
        return [one for one in held if one.timeout_secs is not None and one.id not in begun | over]

    def leave(self) -> None:
        """Forget the claims that are settled, and the worker."""
        retiring = self._outcomes.ledger.retiring
        try:
            if retiring:
                self._session.run(running.retire(retiring))
            self._session.run(workers.leave(self._identity.id))
        except WerkError as error:
            logger.warning("could not deregister this worker: %s", error)
