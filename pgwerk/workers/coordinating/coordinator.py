"""The one thread of a worker that talks to Postgres: it follows the agenda, one turn after the other."""

import logging
import random
from collections.abc import Sequence
from dataclasses import replace

from pgwerk._app.ports import ASKING_SECONDS, WorkerConnection, WorkerListener, unexpected
from pgwerk._core import backoff
from pgwerk._core.agenda import CLOSING_WAIT, Agenda, Duty, Pace, Phase, Plan
from pgwerk._core.claim import Claimed
from pgwerk._core.job import DequeueStrategy
from pgwerk._core.procedures.isolate import is_locked
from pgwerk._core.stall import Motion
from pgwerk._core.statements import running, workers
from pgwerk._handlers.run import monotonic
from pgwerk.errors import ConfigError, ConnectionFailed, WerkError
from pgwerk.workers.coordinating.duties import Duties
from pgwerk.workers.coordinating.gate import Gate
from pgwerk.workers.coordinating.heartbeats import HeartbeatThread
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.coordinating.reconciling import Reconciler
from pgwerk.workers.coordinating.stopping import Stopping
from pgwerk.workers.coordinating.timeouts import TimeoutThread
from pgwerk.workers.coordinating.turns import TurnLoop
from pgwerk.workers.coordinating.wakeup import Wakeup
from pgwerk.workers.crews.base import Crew
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
        self.outcomes = self.turns.outcomes
        self.stops = Stopping(self.agenda, crew, self._gate, self.outcomes, wakeup)
        self._reconciler = Reconciler(identity, session, self.agenda, crew, self._gate, self.outcomes, self._collect)
        self._timeouts = TimeoutThread(crew, self.outcomes.ledger)
        self._ready = False
        """Connected, registered and listening."""
        self.vitals = SharedHeartbeats()
        self.listen_to: int = -1
        """One more file descriptor that ends a wait."""

    # From other threads -----------------------------------------------------------

    def stop(self) -> None:
        """Ask to drain; asked again, to give back at once. Safe in a signal handler."""
        self.stops.ask()

    @property
    def stopping(self) -> bool:
        """Whether the worker is on its way out."""
        return bool(self.stops)

    @property
    def figures(self) -> tuple[int, int, int]:
        """How many jobs ended, how many of them failed or timed out, and how many are held. From any thread."""
        return self.outcomes.settled, self.outcomes.failed, len(self.outcomes.ledger)

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
                    logger.exception("a turn failed in a way that nobody foresaw")
                    self.session.close()
                    if self._troubled(unexpected(error)):
                        break
            self._leave()
            if self._crew.broken is not None:
                raise self._crew.broken
        finally:
            self._timeouts.stop()
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
        return self.stops.given_up()

    def _connected(self) -> bool:
        """Connect and register if need be; False when there is nothing left to do but to go."""
        if self._ready and self.session.connected:
            return True
        self.stops.hear()
        if self.stops.given_up():
            return False
        self._ready = False
        self._duties.drop()
        self.session.connect()
        registered = self._duties.register()
        self._reconciler.give_back_strays()
        self.turns.thought_to_doze(None)
        self.heart.start(registered)
        self.agenda.notified()
        self.agenda.do(Duty.PROMOTE, monotonic())
        self._ready = True
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
        self.stops.hear()
        _ = self._rest(backoff.reconnect(self.session.failures, random.random()))
        self._crew.enforce(monotonic())
        if self.stops:
            self.stops.go_on(self.agenda.plan(monotonic()))

    def _step(self) -> bool:
        """Do what the agenda says, once; True at the end."""
        self.stops.hear()
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
            self.stops.go_on(plan)
            self._collect()
        if plan.finished and self._nothing_left(plan):
            return True
        self._crew.enforce(now)
        self.vitals.enforce_at = next_enforcement(self._crew, self.outcomes.ledger, now)
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
            return self.outcomes.hopeless
        return self.outcomes.idle and not self._duties.busy

    def _admit(self, plan: Plan) -> bool:
        """Let jobs begin whose beginning has to be written down first; whether there is something to settle instead."""
        if plan.phase is not Phase.RUN or not (self._gate or self._gate.closed):
            return False
        in_crew = len(self.outcomes.ledger) - len(self.outcomes.unsettled) - len(self._gate)
        refused = self._gate.admit(in_crew, self._record)
        # Aborted or lost while they waited; or others can run them sooner.
        refused += self._gate.surplus()
        self.outcomes.give_back(refused)
        return bool(refused)

    def _record(self, jobs: Sequence[Claimed]) -> set[str]:
        return set(self.session.run(running.begin([(one.id, one.claim) for one in jobs])))

    def _collect(self) -> None:
        self.stops.look_at_crew()
        self.outcomes.blame = self.outcomes.blame or self._crew.blame
        self.outcomes.over(self._crew.finished())
        self.stops.look_for_reasons()

    def _wait(self, plan: Plan) -> None:
        now = monotonic()
        moments = [now + plan.wait, self._duties.touch_at, self._duties.restart_at, self.outcomes.aside.next_at]
        if self.outcomes.aside.full:
            moments[0] = max(moments[0], now + FULL_WAIT)
        if self._duties.busy:
            return
        self._wakeup.prepare()
        # Whatever happened by now does not wake us any more.
        if self._crew.wake_at(plan.gather or 1) or self.stops.pending or self.heart.pending:
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
        """Abort jobs that are ours."""
        self._reconciler.abort(ids)

    def reconcile(self) -> None:
        """Give back jobs that got lost between claim and handler, or between Postgres and us."""
        self._reconciler.reconcile()

    def unbegun(self) -> list[Claimed]:
        """The jobs with a timeout whose handlers have not begun."""
        return self._reconciler.unbegun()

    @property
    def held(self) -> list[Claimed]:
        """The jobs that are ours."""
        return self.outcomes.ledger.held

    def _begin(self, claimed: Sequence[Claimed]) -> None:
        """Hand jobs that were claimed to the crew."""
        now = monotonic()
        for one in claimed:
            if one.heartbeat_secs is not None:
                self._duties.touch_within(one.heartbeat_secs, now)
            if one.timeout_secs is not None:
                self._duties.begin_within(now)
                self._timeouts.expect(now + one.timeout_secs)
        # Before a thread has it: the handler may be the last thing that this process does for a while.
        self.vitals.enforce_at = next_enforcement(self._crew, self.outcomes.ledger, now)
        self._gate.submit(claimed)

    def _leave(self) -> None:
        # First, lest a heartbeat undo the goodbye.
        self.heart.stop()
        self.vitals.beaten = None
        if not self.session.connected:
            return
        try:
            if self.outcomes.ledger.retiring:
                self.session.run(running.retire(self.outcomes.ledger.retiring))
            self.session.run(workers.leave(self.identity.id))
        except WerkError as error:
            logger.warning("could not say goodbye: %s", error)
