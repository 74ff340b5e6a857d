"""Outcomes that take a transaction of their own: because more follows from them, or because they resist.

it could not be written because       what becomes of it
somebody holds a lock on its row      it is tried again by itself, ever more rarely, see `aside`
Postgres refuses a value in it        it is recorded as a failure, with the reason
that is refused, too                  its job is given up without its outcome
and even that                         it is tried again by itself
the connection is gone                it waits for the next turn, with all others
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace

from pgwerk._app.ports import WorkerConnection
from pgwerk._core.agenda import Agenda
from pgwerk._core.job import JobStatus
from pgwerk._core.lifecycle import Verdict
from pgwerk._core.operations.settle import settle
from pgwerk._core.outcome import Failed, TimedOut
from pgwerk._core.procedures.isolate import is_locked, refuses_a_value
from pgwerk._core.statements import running
from pgwerk._core.statements.upkeep import give_up
from pgwerk._handlers.run import monotonic
from pgwerk.errors import WerkError
from pgwerk.workers.coordinating.aside import BUDGET, PATIENCE
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.coordinating.outcomes import Outcomes, report_of
from pgwerk.workers.coordinating.unclaimable import ascii_reason, ascii_text
from pgwerk.workers.crews.base import Finished

logger = logging.getLogger("pgwerk.worker")


class Settler:
    """Writes outcomes in transactions of several statements."""

    def __init__(
        self, identity: Identity, session: WorkerConnection, agenda: Agenda, outcomes: Outcomes, max_lost: int
    ) -> None:
        self._identity = identity
        self._session = session
        self._agenda = agenda
        self._outcomes = outcomes
        self._max_lost = max_lost

    def settle(self, finished: Sequence[Finished], patience: float | None = None) -> None:
        """Settle these together, or each by itself when that cannot be."""
        now = monotonic()
        reports = [report_of(one, now) for one in finished]
        try:
            verdicts = self._session.run(
                settle(reports, self._identity.id, random.random(), self._max_lost), patience=patience
            )
        except WerkError as error:
            locked = is_locked(error)
            if not locked and not refuses_a_value(error):
                self._outcomes.put_back(finished)
                raise
            if len(finished) > 1:
                self.one_by_one(finished)
                return
            if locked:
                self._outcomes.aside.put(finished[0], "another session holds a lock that it needs")
                return
            refused = self._record_refusal(finished[0], error)
            if refused is None:
                return
            verdicts = refused
        self._settled(finished, verdicts)

    def _settled(self, finished: Sequence[Finished], verdicts: dict[str, Verdict]) -> None:
        self._outcomes.written(finished, verdicts)
        self._outcomes.expect(verdicts.values())
        for one in finished:
            job = one.claimed.job
            if job.id not in verdicts:
                logger.warning(
                    "job %s (%s) no longer belongs to this worker; dropping its outcome", job.id, job.function
                )
            elif job.group_key:
                self._outcomes.keys.add(job.group_key)
        self._outcomes.parents += [one.claimed.id for one in finished]
        # What was released may be for us.
        self._agenda.notified()

    def one_by_one(self, finished: Sequence[Finished]) -> None:
        """Settle each by itself, as many as there is time for."""
        until = monotonic() + BUDGET
        for index, one in enumerate(finished):
            if monotonic() > until:
                # Each had to wait for a lock, and the claims with it.
                self._outcomes.aside.delay(finished[index:])
                break
            try:
                self.settle([one], PATIENCE)
            except WerkError:
                self._outcomes.unsettled += finished[index + 1 :]
                raise

    def retry(self) -> None:
        """Try again what could not be written, as far as its time has come."""
        self._outcomes.aside.retry(lambda one: self.settle([one], PATIENCE))

    def part_from_locked(self, finished: list[Finished], error: WerkError) -> None:
        """Somebody holds a lock: find the jobs that are locked, so that the next turn writes the others."""
        try:
            locked = set(self._session.run(running.locked([one.claimed.id for one in finished]), patience=PATIENCE))
        except WerkError:
            # The whole table, or the connection.
            self._outcomes.unsettled = finished
            raise
        if not locked:
            # Something else that the turn had to write; claims that are settled are forgotten by the sweep, too.
            logger.debug("a turn had to wait for a lock: %s", error)
            self._outcomes.ledger.retiring = []
            self.one_by_one(finished)
            return
        self._outcomes.unsettled = [one for one in finished if one.claimed.id not in locked]
        for one in finished:
            if one.claimed.id in locked:
                self._outcomes.aside.put(one, "another session holds a lock on its row")

    def _record_refusal(self, one: Finished, error: WerkError) -> dict[str, Verdict] | None:
        """Record an outcome that Postgres refuses as a failure, with its reason; None when that cannot be either."""
        job = one.claimed.job
        logger.error("the outcome of job %s (%s) cannot be stored: %s", job.id, job.function, error)
        outcome = one.outcome
        reason = ascii_reason(f"the outcome could not be stored: {error}")
        if isinstance(outcome, Failed | TimedOut):
            # The text of its error, perhaps; what becomes of it is as it was.
            outcome = replace(outcome, error=ascii_text(outcome.error))
        else:
            outcome = Failed(reason, final=True)
        report = report_of(one, monotonic())._replace(outcome=outcome)
        try:
            return self._session.run(settle([report], self._identity.id))
        except WerkError as again:
            if is_locked(again):
                self._outcomes.aside.put(one, again)
                return None
            if not refuses_a_value(again):
                self._outcomes.put_back([one])
                raise
            # Something else in the row: at least it does not stay active for ever.
            try:
                _ = self._session.run(give_up(job.id, reason, one.claimed.claim))
            except WerkError as last:
                self._outcomes.aside.put(one, last)
                return None
            return {job.id: Verdict(JobStatus.FAILED)}
