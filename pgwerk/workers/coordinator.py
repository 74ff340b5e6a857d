"""The one thread of a worker that talks to Postgres: it follows the agenda, one turn after the other."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from pgwerk._core import backoff
from pgwerk._core.agenda import CLOSING_WAIT, Agenda, Duty, Pace, Phase, Plan
from pgwerk._core.job import DequeueStrategy
from pgwerk._core.operations.settle import settle
from pgwerk._core.outcome import Aborted, Interrupted, Report
from pgwerk._core.statements import closing, workers
from pgwerk._core.statements.claims import Claimed
from pgwerk._runs import monotonic
from pgwerk.errors import ConnectionFailed, JobAborted, WerkError, WorkerShutdown
from pgwerk.sync.listener import Listener
from pgwerk.workers.crew import Crew, Finished
from pgwerk.workers.duties import Duties
from pgwerk.workers.gate import Gate
from pgwerk.workers.hearing import Hearing
from pgwerk.workers.identity import Identity
from pgwerk.workers.session import Session
from pgwerk.workers.turns import Turns
from pgwerk.workers.vitals import Vitals, next_enforcement
from pgwerk.workers.wakeup import Wakeup

logger = logging.getLogger("pgwerk.worker")


class Coordinator:
    """Claims, settles and looks after things for one crew."""

    def __init__(
        self,
        identity: Identity,
        session: Session,
        listener: Listener,
        crew: Crew,
        wakeup: Wakeup,
        pace: Pace,
        strategy: DequeueStrategy,
        liveness: float,
        stuck: float,
        max_lost: int,
    ) -> None:
        self.identity = identity
        self.session = session
        self.agenda = Agenda(pace, monotonic())
        self._hearing = Hearing(listener)
        self._crew = crew
        self._wakeup = wakeup
        self._liveness = liveness
        self._gate = Gate(crew, pace.concurrency, max_lost)
        self._duties = Duties(self, liveness, stuck, max_lost)
        self.turns = Turns(identity, session, self.agenda, strategy, self._begin)
        self.turns.max_lost = max_lost
        self._ready = False
        """Connected, registered and listening."""
        self._stops = 0
        self._stops_seen = 0
        self._interrupted = False
        self._missing: set[str] = set()
        self.job_limit: int | None = None
        self.parent_says: Callable[[], int] = lambda: 0
        """How often a supervisor wants us to stop; once when it is gone."""
        self.vitals = Vitals()
        self.replaceable = False
        """Whether somebody starts another process when this one ends."""
        self.listen_to: int = -1
        """One more file descriptor that ends a wait."""

    # From other threads -----------------------------------------------------------

    def stop(self) -> None:
        """Ask to drain; asked again, to give back at once. Safe in a signal handler."""
        self._stops += 1
        self._wakeup.force()

    @property
    def stopping(self) -> bool:
        """Whether the worker is on its way out."""
        return self._stops > 0

    @property
    def figures(self) -> tuple[int, int, int]:
        """How many jobs ended, how many of them failed or timed out, and how many are held. From any thread."""
        return self.turns.settled, self.turns.failed, len(self.turns.ledger)

    # The loop ---------------------------------------------------------------------

    def run(self) -> None:
        """Work until stopped, or until a burst finds nothing more; raises in a burst when the database fails."""
        self._crew.start()
        try:
            while True:
                try:
                    if not self._connected() or self._step():
                        break
                    self.session.works()
                except ConnectionFailed as error:
                    self._disconnected(error)
                except WerkError as error:
                    if self.agenda.pace.burst:
                        raise
                    self.session.trouble(error)
                    self._pause()
                    if self._given_up:
                        # What could not be written is recovered by others as soon as we have left.
                        break
            self._leave()
            if self._crew.broken is not None:
                raise self._crew.broken
        finally:
            self._crew.close()
            self._hearing.close()
            self.session.close()
            self._wakeup.close()

    def _connected(self) -> bool:
        """Connect and register if need be; False when there is nothing left to do but to go."""
        if self._ready and self.session.connected:
            return True
        self._hear_stops()
        if self._given_up:
            return False
        me = self.identity
        self._ready = False
        self.session.connect()
        self._duties.register()
        for job_id, claim in self.session.run(closing.stray(me.id, self.turns.ledger.claims)):
            # Claimed by us in a turn whose answer was lost.
            _ = self.session.run(settle([Report(job_id, claim, Interrupted())], me.id))
        self.turns.thought_to_doze(None)
        self._hearing.begin()
        self.agenda.notified()
        self.agenda.do(Duty.PROMOTE, monotonic())
        self._ready = True
        return True

    @property
    def _given_up(self) -> bool:
        """Whether the time to stop in good order is over."""
        if not self.stopping or self.agenda.plan(monotonic()).phase is not Phase.ABANDON:
            return False
        self._crew.abandon()
        return True

    def _disconnected(self, error: ConnectionFailed) -> None:
        if self.agenda.pace.burst and not self.session.ever_connected:
            raise error
        self.session.lost(error)
        self._hearing.close()
        self._pause()

    def _pause(self) -> None:
        """Wait before trying the database again; handlers go on."""
        self._wakeup.prepare()
        self._hear_stops()
        _ = self._wakeup.wait(backoff.reconnect(self.session.failures, random.random()), self.listen_to)
        self._crew.enforce(monotonic())
        if self.stopping:
            self._closing(self.agenda.plan(monotonic()))

    def _step(self) -> bool:
        """Do what the agenda says, once; True at the end."""
        self._hear_stops()
        # First, so that what is over makes room in this very turn.
        self._collect()
        now = monotonic()
        plan = self.agenda.plan(now)
        if plan.phase is not Phase.RUN or plan.return_buffer or plan.duties or plan.gather:
            self.turns.begin()
        if plan.phase is not Phase.RUN or plan.return_buffer:
            self._closing(plan)
            self._collect()
        if plan.finished and self.turns.idle:
            return True
        self._crew.enforce(now)
        self.vitals.enforce_at = next_enforcement(self._crew, self.turns.ledger, now)
        for duty in plan.duties:
            self._duties.do(duty)
        self._duties.touch(now)
        self._collect()
        _ = self._admit(plan)
        if self._gate.closed and plan.phase is Phase.RUN:
            plan = replace(plan, claim=0, gather=0, wait=max(plan.wait, CLOSING_WAIT))
        asked = not plan.gather and self.turns.take(plan.claim, doze=self.agenda.dozing and plan.phase is Phase.RUN)
        # Without a turn, what the last one brought was handed on just now.
        if not asked and not self._admit(plan):
            self._wait(plan)
        return False

    def _admit(self, plan: Plan) -> bool:
        """Let jobs begin whose beginning has to be written down first; whether there is something to settle instead."""
        if plan.phase is not Phase.RUN or not (self._gate or self._gate.closed):
            return False
        in_crew = len(self.turns.ledger) - len(self.turns.unsettled) - len(self._gate)
        now = monotonic()
        refused = self._gate.admit(in_crew, self._record)
        # Aborted or lost while they waited; or others can run them sooner.
        refused += self._gate.surplus()
        self.turns.over([Finished(one, Interrupted(), now, now) for one in refused])
        return bool(refused)

    def _record(self, jobs: Sequence[Claimed]) -> set[str]:
        return set(self.session.run(closing.begin([(one.id, one.claim) for one in jobs])))

    def _hear_stops(self) -> None:
        if self.stopping and not self._stops_seen:
            self._crew.stopping()
        self._stops = max(self._stops, self.parent_says())
        while self._stops_seen < self._stops:
            self._stops_seen += 1
            self.agenda.stop(monotonic())

    def _closing(self, plan: Plan) -> None:
        if plan.return_buffer:
            now = monotonic()
            self.turns.over([Finished(one, Interrupted(), now, now) for one in self._gate.take_back()])
        if plan.phase is Phase.GIVE_BACK and not self._interrupted:
            self._interrupted = True
            self._crew.interrupt(WorkerShutdown)
        if plan.phase is Phase.ABANDON:
            self._crew.abandon()

    def _collect(self) -> None:
        if self._crew.broken is not None and self._stops < 2:
            logger.error("%s", self._crew.broken)
            self._stops = 2
        self.turns.blame = self.turns.blame or self._crew.blame
        self.turns.over(self._crew.finished())
        ran = self.turns.settled + len(self.turns.unsettled)
        if self.job_limit is not None and ran >= self.job_limit and not self._stops:
            logger.info("ran %d jobs: making room for a fresh process", ran)
            self.stop()
        if self._crew.crippled and self.replaceable and not self._stops:
            self.stop()

    def _wait(self, plan: Plan) -> None:
        now = monotonic()
        moments = [now + plan.wait, self._duties.touch_at]
        deadline = self._crew.next_deadline()
        if deadline is not None:
            moments.append(deadline)
        self._wakeup.prepare()
        # Whatever happened by now does not wake us any more.
        enough, broke = self._crew.wake_at(plan.gather or 1), self._crew.broken is not None and self._stops < 2
        if enough or broke or self._stops_seen < self._stops:
            return
        ready = self._wakeup.wait(min(moments) - now, self._hearing.fileno(), self.listen_to)
        if self._hearing.fileno() in ready:
            self._hear()

    def _hear(self) -> None:
        heard = self._hearing.heard()
        if heard is None:
            self._hearing.begin()
            self.agenda.notified()
        for payload in heard or ():
            self._duties.heard(payload)

    # For duties -------------------------------------------------------------------

    def interrupt(self, ids: Sequence[str]) -> None:
        """Abort running jobs; those that only wait in the buffer end at once."""
        wanted = set(ids)
        self._crew.interrupt(JobAborted, wanted)
        waiting = self._gate.take_back()
        now = monotonic()
        self.turns.over([Finished(one, Aborted(), now, now) for one in waiting if one.id in wanted])
        self._gate.submit([one for one in waiting if one.id not in wanted])

    def beaten(self, idle: bool) -> None:  # what the database says
        """Take note of whether producers think that this worker sleeps, and see to it that it hears them."""
        self.turns.thought_to_doze(idle)
        if self._hearing.fileno() < 0:
            self._hearing.begin()
            self.agenda.notified()

    def reconcile(self) -> None:
        """Give back jobs that slipped through between claim and handler: they would stay active for ever.

        Only what is missing at two looks in a row: a job is on its way from the queue to a thread for an instant.
        """
        self._collect()
        missing = [] if self._gate.waiting else self.turns.missing(run.claimed.id for run in self._crew.running())
        lost = [one for one in missing if one.id in self._missing]
        self._missing = {one.id for one in missing}
        now = monotonic()
        for one in lost:
            logger.error("job %s (%s) got lost inside this worker: it is given back", one.id, one.function)
        self.turns.over([Finished(one, Interrupted(), now, now) for one in lost])

    @property
    def held(self) -> list[Claimed]:
        """The jobs that are ours."""
        return self.turns.ledger.held

    def _begin(self, claimed: Sequence[Claimed]) -> None:
        """Hand jobs that were claimed to the crew."""
        now = monotonic()
        for one in claimed:
            if one.heartbeat_secs is not None:
                self._duties.touch_within(one.heartbeat_secs, now)
        # Before a thread has it: the handler may be the last thing that this process does for a while.
        self.vitals.enforce_at = next_enforcement(self._crew, self.turns.ledger, now)
        self._gate.submit(claimed)

    def _leave(self) -> None:
        self.vitals.beaten = None
        if not self.session.connected:
            return
        try:
            if self.turns.ledger.retiring:
                self.session.run(closing.retire(self.turns.ledger.retiring))
            self.session.run(workers.leave(self.identity.id))
        except WerkError as error:
            logger.warning("could not say goodbye: %s", error)
