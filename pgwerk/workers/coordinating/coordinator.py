"""The one thread of a worker that talks to Postgres: it follows the agenda, one step after the other.

A step: hear what was asked and told, collect what is over, do what is due, take a turn (write what ended, claim what
there is room for), and, if there was nothing to ask for, wait. Around it, this loop:

    not connected    connect, register, give back what was claimed without our knowledge       then the step
    the step fails   the connection is gone: wait, growing longer, and connect again
                     Postgres refuses something: the same, without a new connection
                     anything else: the last resort, the same with a new connection
    a burst          ends with nothing left to do, or raises what failed
    stopping         phase by phase as the agenda says, see `stopping`; then `_leave`

Only this thread changes what is in this package, but for what says otherwise.
"""

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
from pgwerk._core.statements import workers
from pgwerk._handlers.run import monotonic
from pgwerk.errors import ConfigError, ConnectionFailed, WerkError
from pgwerk.workers.coordinating.duties import Duties
from pgwerk.workers.coordinating.gate import Gate
from pgwerk.workers.coordinating.heartbeats import HeartbeatThread
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.coordinating.reconciling import Reconciler
from pgwerk.workers.coordinating.resting import Rest
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
        self.rest = Rest(crew, wakeup, session)
        self._gate = Gate(crew, pace.concurrency, max_lost)
        self.heart = HeartbeatThread(
            identity, hearing, pace, liveness, self.rest.motion, wakeup.wake, session.cut, ASKING_SECONDS
        )
        self.heart.works = lambda: session.connected and not session.troubled_for(pace.heartbeat)
        self._duties = Duties(self, liveness, stuck, max_lost)
        self.turns = TurnLoop(identity, session, self.agenda, strategy, self._begin, max_lost)
        self.outcomes = self.turns.outcomes
        self.stops = Stopping(self.agenda, crew, self._gate, self.outcomes, wakeup)
        self._reconciler = Reconciler(identity, session, self.agenda, crew, self._gate, self.outcomes, self._collect)
        self._timeouts = TimeoutThread(crew, self.outcomes.ledger)
        self._ready = False
        """Connected, registered and listening."""
        self.vitals = SharedHeartbeats()

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

    # The loop ---------------------------------------------------------------------

    def run(self) -> None:
        """Work until stopped, or until a burst finds nothing more; raises in a burst when the database fails."""
        self.heart.vitals = self.vitals
        self._crew.start()
        try:
            while True:
                self.rest.steps += 1
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
        self.rest.prepare()
        self.stops.hear()
        _ = self.rest.until(monotonic() + backoff.reconnect(self.session.failures, random.random()))
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
        if plan.finished and self.outcomes.nothing_left(plan) and not self._duties.busy:
            return True
        self._crew.enforce(now)
        self.vitals.enforce_at = next_enforcement(self._crew, self.outcomes.ledger, now)
        for duty in plan.duties:
            self._duties.do(duty)
        self._duties.touch(now)
        self._duties.restart(now)
        self._duties.go_on()
        self._collect()
        _ = self._reconciler.admit(plan)
        if self._gate.closed and plan.phase is Phase.RUN:
            plan = replace(plan, claim=0, gather=0, wait=max(plan.wait, CLOSING_WAIT))
        asked = not plan.gather and self.turns.take(plan.claim, doze=self.agenda.dozing and plan.phase is Phase.RUN)
        if asked:
            self.session.works()
        # Without a turn, what the last one brought was handed on just now.
        if not asked and not self._reconciler.admit(plan):
            self._wait(plan)
        return False

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
        self.rest.prepare()
        # Whatever happened by now does not wake us any more.
        if self._crew.wake_at(plan.gather or 1) or self.stops.pending or self.heart.pending:
            return
        line = self.heart.fileno()
        if line in self.rest.until(min(moments), line):
            self.heart.drain()

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
            if not one.bare and one.heartbeat_secs is not None:
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
        if self.session.connected:
            self._reconciler.leave()
