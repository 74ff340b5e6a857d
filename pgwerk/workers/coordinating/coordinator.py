"""The one thread of a worker that talks to Postgres: it follows the agenda, one turn after the other."""

import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from pgwerk._app.ports import ASKING_SECONDS, WorkerConnection, WorkerListener, unexpected
from pgwerk._core import backoff
from pgwerk._core.agenda import CLOSING_WAIT, Agenda, Duty, Pace, Phase, Plan
from pgwerk._core.claim import Claimed
from pgwerk._core.job import DequeueStrategy
from pgwerk._core.operations.settle import settle
from pgwerk._core.outcome import Aborted, Interrupted, Report
from pgwerk._core.procedures.isolate import is_locked
from pgwerk._core.stall import Motion
from pgwerk._core.statements import running, workers
from pgwerk._handlers.run import monotonic
from pgwerk.errors import ConfigError, ConnectionFailed, JobAborted, WerkError, WorkerShutdown
from pgwerk.workers.coordinating.duties import Duties
from pgwerk.workers.coordinating.gate import Gate
from pgwerk.workers.coordinating.heartbeats import HeartbeatThread
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.coordinating.turns import TurnLoop
from pgwerk.workers.coordinating.wakeup import Wakeup
from pgwerk.workers.crews.base import Crew, Finished
from pgwerk.workers.supervising.shared_heartbeats import SharedHeartbeats, next_enforcement

logger = logging.getLogger("pgwerk.worker")

BURST_PATIENCE = 60.0
"""Seconds that a burst waits for somebody else's lock before it fails."""
FULL_WAIT = 0.05
"""Seconds between two turns while too much could not be written."""


class Coordinator:
    """Claims, settles and looks after things for one crew."""

    def __init__(
        self,
        identity: Identity,
        session: WorkerConnection,
        hearing: WorkerListener,
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
        self._crew = crew
        self._wakeup = wakeup
        self._gate = Gate(crew, pace.concurrency, max_lost)
        self.heart = HeartbeatThread(
            identity, hearing, pace, liveness, self._motion, wakeup.wake, session.cut, ASKING_SECONDS
        )
        self.heart.works = lambda: session.connected and not session.troubled_for(pace.heartbeat)
        self._steps = 0
        """Changes with everything that this thread does."""
        self._resting = False
        self._duties = Duties(self, liveness, stuck, max_lost)
        self.turns = TurnLoop(identity, session, self.agenda, strategy, self._begin)
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
        self.vitals = SharedHeartbeats()
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

    def _motion(self) -> Motion:
        """What the heart sees of this thread."""
        return Motion(self._steps + self.session.asked, self._resting, self.session.asking)

    # The loop ---------------------------------------------------------------------

    def run(self) -> None:
        """Work until stopped, or until a burst finds nothing more; raises in a burst when the database fails."""
        self.heart.vitals = self.vitals
        self._crew.start()
        try:
            while True:
                self._steps += 1
                try:
                    if not self._connected() or self._step():
                        break
                except ConnectionFailed as error:
                    self._disconnected(error)
                except WerkError as error:
                    if self._troubled(error):
                        break
                except Exception as error:
                    # The last resort: a worker that ends takes all its jobs with it.
                    if self.agenda.pace.burst:
                        raise
                    logger.exception("unexpected error in the worker's coordinator")
                    self.session.close()
                    if self._troubled(unexpected(error)):
                        break
            self._leave()
            if self._crew.broken is not None:
                raise self._crew.broken
        finally:
            self._crew.close()
            self.heart.stop()
            self.session.close()
            self._wakeup.close()

    def _troubled(self, error: WerkError) -> bool:
        """Wait before another try; True when there will be none."""
        # What is configured wrongly does not mend itself.
        if isinstance(error, ConfigError):
            raise error
        # The lock of somebody else may be held for a while, as long as a statement may take.
        if self.agenda.pace.burst and not (is_locked(error) and not self.session.troubled_for(BURST_PATIENCE)):
            raise error
        self.session.trouble(error)
        # Only a turn that goes well shows that it is over.
        self.agenda.notified()
        self._pause()
        # What could not be written is recovered by others as soon as we have left.
        return self._given_up

    def _connected(self) -> bool:
        """Connect and register if need be; False when there is nothing left to do but to go."""
        if self._ready and self.session.connected:
            return True
        self._hear_stops()
        if self._given_up:
            return False
        self._ready = False
        self._duties.drop()
        self.session.connect()
        registered = self._duties.register()
        self._give_back_strays()
        self.turns.thought_to_doze(None)
        self.heart.start(registered)
        self.agenda.notified()
        self.agenda.do(Duty.PROMOTE, monotonic())
        self._ready = True
        return True

    def _give_back_strays(self) -> None:
        """Give back what we claimed in a turn whose answer was lost; its commit may come long after the loss."""
        me = self.identity.id
        for job_id, claim in self.session.run(running.stray(me, self.turns.ledger.claims)):
            logger.info("giving back job %s: this worker had claimed it without receiving the answer", job_id)
            _ = self.session.run(settle([Report(job_id, claim, Interrupted())], me))
            self.agenda.notified()

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
        # It may have lost its own connection, and the others wait for it.
        self.heart.soon()
        self._pause()

    def _pause(self) -> None:
        """Wait before trying the database again; handlers go on."""
        self._wakeup.prepare()
        self._hear_stops()
        _ = self._rest(backoff.reconnect(self.session.failures, random.random()))
        self._crew.enforce(monotonic())
        if self.stopping:
            self._closing(self.agenda.plan(monotonic()))

    def _step(self) -> bool:
        """Do what the agenda says, once; True at the end."""
        self._hear_stops()
        self._hear()
        # First, so that what is over makes room in this very turn.
        self._collect()
        now = monotonic()
        plan = self.agenda.plan(now)
        if plan.phase is not Phase.RUN or plan.return_buffer or plan.duties or plan.gather or self._duties.busy:
            self.turns.begin()
        if plan.phase is not Phase.RUN:
            self._duties.drop()
        if plan.phase is not Phase.RUN or plan.return_buffer:
            self._closing(plan)
            self._collect()
        if plan.finished and self._nothing_left(plan):
            return True
        self._crew.enforce(now)
        self.vitals.enforce_at = next_enforcement(self._crew, self.turns.ledger, now)
        for duty in plan.duties:
            self._duties.do(duty)
        self._duties.touch(now)
        self._duties.restart(now)
        self._duties.go_on()
        self._collect()
        _ = self._admit(plan)
        if self._gate.closed and plan.phase is Phase.RUN:
            plan = replace(plan, claim=0, gather=0, wait=max(plan.wait, CLOSING_WAIT))
        asked = not plan.gather and self._take(plan)
        # Without a turn, what the last one brought was handed on just now.
        if not asked and not self._admit(plan):
            self._wait(plan)
        return False

    def _take(self, plan: Plan) -> bool:
        taken = self.turns.take(plan.claim, doze=self.agenda.dozing and plan.phase is Phase.RUN)
        if taken:
            self.session.works()
        return taken

    def _nothing_left(self, plan: Plan) -> bool:
        if plan.phase is Phase.ABANDON:
            return self.turns.hopeless
        return self.turns.idle and not self._duties.busy

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
        return set(self.session.run(running.begin([(one.id, one.claim) for one in jobs])))

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
            logger.info("ran %d jobs: exiting to be replaced by a fresh process", ran)
            self.stop()
        if self._crew.crippled and self.replaceable and not self._stops:
            self.stop()

    def _wait(self, plan: Plan) -> None:
        now = monotonic()
        moments = [now + plan.wait, self._duties.touch_at, self._duties.restart_at, self.turns.aside.next_at]
        if self.turns.aside.full:
            moments[0] = max(moments[0], now + FULL_WAIT)
        if self._duties.busy:
            return
        self._wakeup.prepare()
        # Whatever happened by now does not wake us any more.
        enough, broke = self._crew.wake_at(plan.gather or 1), self._crew.broken is not None and self._stops < 2
        if enough or broke or self._stops_seen < self._stops or self.heart.pending:
            return
        line = self.heart.fileno()
        if line in self._rest(min(moments) - now, line):
            self.heart.drain()

    def _rest(self, seconds: float, *sockets: int) -> list[int]:
        self._resting = True
        # The wake-up is prepared by now: a handler that begins after this look wakes us.
        now = monotonic()
        seconds = self._crew.sleep_until(now + seconds) - now
        ready = self._wakeup.wait(seconds, *sockets, self.listen_to)
        self._crew.awake()
        self._steps += 1
        self._resting = False
        return ready

    def _hear(self) -> None:
        """Take note of notifications, and of the answers to heartbeats."""
        beat = self.heart.answer()
        if beat is not None:
            self._duties.beaten(beat)
            self.turns.thought_to_doze(beat.idle)
        for payload in self.heart.heard():
            self._duties.heard(payload)
        if self.heart.news():
            self.agenda.notified()
        if self.heart.wants_proof():
            self.session.run(workers.prove())

    # For duties -------------------------------------------------------------------

    def interrupt(self, ids: Sequence[str]) -> None:
        """Abort running jobs; those that only wait in the buffer end at once."""
        wanted = set(ids)
        self._crew.interrupt(JobAborted, wanted)
        waiting = self._gate.take_back()
        now = monotonic()
        self.turns.over([Finished(one, Aborted(), now, now) for one in waiting if one.id in wanted])
        self._gate.submit([one for one in waiting if one.id not in wanted])

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
            logger.error("giving back job %s (%s): it was lost inside this worker", one.id, one.function)
        self.turns.over([Finished(one, Interrupted(), now, now) for one in lost])
        self._give_back_strays()

    def unbegun(self) -> list[Claimed]:
        """The jobs with a timeout whose handlers have not begun."""
        begun = {run.claimed.id for run in self._crew.running() if run.deadline is not None}
        over = {one.claimed.id for one in self.turns.unsettled} | self.turns.aside.ids
        return [one for one in self.held if one.timeout_secs is not None and one.id not in begun | over]

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
            if one.timeout_secs is not None:
                self._duties.begin_within(now)
        # Before a thread has it: the handler may be the last thing that this process does for a while.
        self.vitals.enforce_at = next_enforcement(self._crew, self.turns.ledger, now)
        self._gate.submit(claimed)

    def _leave(self) -> None:
        # First, lest a heartbeat undo the goodbye.
        self.heart.stop()
        self.vitals.beaten = None
        if not self.session.connected:
            return
        try:
            if self.turns.ledger.retiring:
                self.session.run(running.retire(self.turns.ledger.retiring))
            self.session.run(workers.leave(self.identity.id))
        except WerkError as error:
            logger.warning("could not deregister this worker: %s", error)
