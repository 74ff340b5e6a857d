"""The one thread of a worker that talks to Postgres: it follows the agenda, one turn after the other."""

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pgwerk._core import backoff
from pgwerk._core.agenda import Agenda, Duty, Pace, Phase, Plan
from pgwerk._core.job import DequeueStrategy, Job, reason_of
from pgwerk._core.lifecycle import Verdict, decide
from pgwerk._core.operation import Operation, R
from pgwerk._core.operations.cycle import Answer, Turn, turn
from pgwerk._core.operations.settle import release_waiting, settle
from pgwerk._core.outcome import Aborted, Failed, Interrupted, Report, Succeeded
from pgwerk._core.payload import storable_text
from pgwerk._core.statements import claims, workers
from pgwerk._core.statements.claims import Claimed
from pgwerk.errors import ConnectionFailed, DatabaseError, JobAborted, SerializationError, WerkError, WorkerShutdown
from pgwerk.sync.crew import Crew, Finished
from pgwerk.sync.duties import Duties
from pgwerk.sync.listener import Listener
from pgwerk.sync.session import Session
from pgwerk.sync.slots import monotonic
from pgwerk.sync.wakeup import Wakeup

logger = logging.getLogger("pgwerk.worker")


@dataclass
class Identity:
    """Who a worker is."""

    id: str
    name: str
    queues: tuple[str, ...]
    metadata: dict[str, Any]


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
    ) -> None:
        self.identity = identity
        self._session = session
        self._listener = listener
        self._crew = crew
        self._wakeup = wakeup
        self._strategy = strategy
        self._agenda = Agenda(pace, monotonic())
        self._duties = Duties(self, liveness, stuck)
        self._liveness = liveness
        self._held: dict[str, Claimed] = {}
        """Jobs that are ours and not settled, by id."""
        self._open_claims: dict[int, int] = {}
        """How many unsettled jobs each claim has."""
        self._retiring: list[int] = []
        self._unsettled: list[Finished] = []
        self._parents: list[str] = []
        self._keys: set[str] = set()
        self._dozing = False
        self._stops = 0
        self._stops_seen = 0
        self._interrupted = False
        self.settled = 0
        """How many outcomes were written."""
        self.job_limit: int | None = None
        self.parent_says: Callable[[], int] = lambda: 0
        """How often a supervisor wants us to stop; once when it is gone."""
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
    def agenda(self) -> Agenda:
        """The agenda, for duties."""
        return self._agenda

    @property
    def running_ids(self) -> list[str]:
        """The jobs that handlers are at."""
        return [run.claimed.job.id for run in self._crew.running()]

    # The loop ---------------------------------------------------------------------

    def run(self) -> None:
        """Work until stopped, or until a burst finds nothing more; raises in a burst when the database fails."""
        self._crew.start()
        try:
            while True:
                try:
                    if not self._connected() or self._step():
                        break
                except ConnectionFailed as error:
                    self._disconnected(error)
                except WerkError as error:
                    if self._agenda.pace.burst:
                        raise
                    self._session.trouble(error)
                    self._pause()
            self._leave()
        finally:
            self._crew.close()
            self._listener.close()
            self._session.close()

    def _connected(self) -> bool:
        """Connect if need be; False when there is nothing left to do but to go."""
        if self._session.connected:
            return True
        self._hear_stops()
        if self._agenda.plan(monotonic()).phase is Phase.ABANDON:
            self._crew.abandon()
            return False
        self._session.connect()
        known = sorted(self._open_claims)
        self._ask(workers.register(self.identity.id, self.identity.name, self.identity.queues,
                                   self.identity.metadata, self._liveness))  # fmt: skip
        for job_id, claim in self._ask(claims.stray(self.identity.id, known)):
            # Claimed by us in a turn whose answer was lost.
            _ = self._ask(settle([Report(job_id, claim, Interrupted())], self.identity.id))
        self._dozing = False
        self._listen_again()
        now = monotonic()
        self._agenda.notified()
        self._agenda.do(Duty.PROMOTE, now)
        return True

    def _listen_again(self) -> None:
        try:
            self._listener.connect()
        except WerkError as error:
            logger.warning("cannot listen, polling instead: %s", error)

    def _disconnected(self, error: ConnectionFailed) -> None:
        if self._agenda.pace.burst and not self._session.ever_connected:
            raise error
        self._session.lost(error)
        self._listener.close()
        self._pause()

    def _pause(self) -> None:
        """Wait before trying the database again; handlers go on."""
        self._wakeup.prepare()
        self._hear_stops()
        _ = self._wakeup.wait(backoff.reconnect(self._session.failures, random.random()), self.listen_to)
        self._crew.enforce(monotonic())
        if self.stopping:
            self._closing(self._agenda.plan(monotonic()))

    def _step(self) -> bool:
        """Do what the agenda says, once; True at the end."""
        self._hear_stops()
        now = monotonic()
        plan = self._agenda.plan(now)
        if plan.finished and not self._unsettled and not self._parents and not self._keys:
            return True
        self._crew.enforce(now)
        if plan.phase is not Phase.RUN or plan.return_buffer:
            self._closing(plan)
        for duty in plan.duties:
            self._duties.do(duty)
        self._duties.touch(now)
        self._collect()
        if not self._turn(plan):
            self._wait(plan)
        return False

    def _hear_stops(self) -> None:
        self._stops = max(self._stops, self.parent_says())
        while self._stops_seen < self._stops:
            self._stops_seen += 1
            self._agenda.stop(monotonic())

    def _closing(self, plan: Plan) -> None:
        if plan.return_buffer:
            now = monotonic()
            for claimed in self._crew.take_back():
                self._unsettled.append(Finished(claimed, Interrupted(), now, now))
        if plan.phase is Phase.GIVE_BACK and not self._interrupted:
            self._interrupted = True
            self._crew.interrupt(WorkerShutdown)
        if plan.phase is Phase.ABANDON:
            self._crew.abandon()

    def _collect(self) -> None:
        self._unsettled += self._crew.finished()
        if self.job_limit is not None and self.settled + len(self._unsettled) >= self.job_limit and not self._stops:
            logger.info("ran %d jobs: making room for a fresh process", self.settled + len(self._unsettled))
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
        # Whatever finished after we collected would not wake us.
        self._collect()
        if self._unsettled or self._stops_seen < self._stops:
            return
        ready = self._wakeup.wait(min(moments) - now, self._listener.fileno(), self.listen_to)
        if self._listener.fileno() in ready:
            self._hear()

    def _hear(self) -> None:
        try:
            heard = self._listener.drain()
        except WerkError as error:
            logger.warning("the listening connection was lost, listening again: %s", error)
            self._listen_again()
            self._agenda.notified()
            return
        for _, payload in heard:
            self._duties.heard(payload)

    # A turn -----------------------------------------------------------------------

    def _turn(self, plan: Plan) -> bool:
        """Send one turn if there is anything to send."""
        finished, self._unsettled = self._unsettled, []
        entries, special = self._sorted_out(finished)
        agenda = self._agenda
        wants = agenda.dozing and plan.phase is Phase.RUN
        ask = Turn(
            worker=self.identity.id,
            queues=self._queues(),
            count=plan.claim,
            in_turns=self._strategy is not DequeueStrategy.Priority,
            closing=entries,
            retiring=self._retiring,
            parents=self._parents,
            keys=sorted(self._keys),
            dozing=wants if wants != self._dozing else None,
        )
        if not (ask.count or ask.closing or ask.parents or ask.keys or ask.dozing is not None or special):
            return False
        agenda.claiming()
        try:
            answer = self._ask(turn(ask))
        except ConnectionFailed:
            self._unsettled = finished
            raise
        except (SerializationError, DatabaseError) as error:
            # One of them cannot be written: find it, and do not let it hold up the others.
            if not entries:
                self._unsettled = finished
                raise
            logger.warning("a batch of outcomes was refused, writing them one by one: %s", error)
            self._one_by_one(finished)
            return True
        self._retiring, self._parents, self._keys = [], [], set()
        self._dozing = wants
        self._answered(ask, answer)
        self._expect([verdict for _, verdict in entries])
        left = [f for f in finished if f.claimed.job.id not in answer.closed]
        self._done([f for f in finished if f.claimed.job.id in answer.closed])
        self._parents = [f.claimed.job.id for f in finished if isinstance(f.outcome, Succeeded | Failed)]
        if left:
            self._settle_whole(left)
        if answer.late:
            _ = self._ask(release_waiting(answer.late))
            agenda.notified()
        return True

    def _sorted_out(self, finished: Sequence[Finished]) -> tuple[list[tuple[Report, Verdict]], bool]:
        """The verdicts of plain jobs; whether there are others."""
        entries: list[tuple[Report, Verdict]] = []
        now = monotonic()
        for one in finished:
            if one.claimed.plain and not isinstance(one.outcome, Aborted):
                report = _report(one, now)
                entries.append((report, decide(one.claimed.job, one.outcome, random.random())))
        return entries, len(entries) < len(finished)

    def _queues(self) -> Sequence[str]:
        if self._strategy is DequeueStrategy.Random:
            return random.sample(self.identity.queues, len(self.identity.queues))
        return self.identity.queues

    def _answered(self, ask: Turn, answer: Answer) -> None:
        now = monotonic()
        if answer.readied:
            self._agenda.notified()
        claim = answer.claim
        if claim is None:
            return
        self._agenda.claimed(ask.count, len(claim.jobs), now, denied=len(claim.denied))
        self._keys.update(claim.denied)
        for claimed in claim.jobs:
            self._held[claimed.job.id] = claimed
            self._open_claims[claimed.claim] = self._open_claims.get(claimed.claim, 0) + 1
            if claimed.job.heartbeat_secs is not None:
                self._duties.touch_within(claimed.job.heartbeat_secs, now)
        if claim.jobs:
            self._crew.submit(claim.jobs)

    def _settle_whole(self, finished: Sequence[Finished]) -> None:
        """Settle in a transaction of several statements: what has more consequences than its own row."""
        now = monotonic()
        reports = [_report(one, now) for one in finished]
        try:
            verdicts = self._ask(settle(reports, self.identity.id, random.random()))
        except ConnectionFailed:
            self._unsettled = [*finished, *self._unsettled]
            raise
        except (SerializationError, DatabaseError) as error:
            if len(finished) > 1:
                self._one_by_one(finished)
                return
            verdicts = self._settle_refused(finished[0], error)
        self._done(finished)
        self._expect(verdicts.values())
        for one in finished:
            job = one.claimed.job
            if job.id not in verdicts:
                logger.warning("job %s (%s) was lost while it ran: its outcome is dropped", job.id, job.function)
            elif job.group_key:
                self._keys.add(job.group_key)
        self._parents += [one.claimed.job.id for one in finished]
        # What was released may be for us.
        self._agenda.notified()

    def _expect(self, verdicts: Iterable[Verdict]) -> None:
        """Wake up when the next attempts and repetitions are due."""
        delays = [delay for v in verdicts for delay in (v.delay, v.repeat) if delay is not None and not v.uncount]
        if delays:
            self._agenda.due_in(min(delays), monotonic())
            if not min(delays):
                self._agenda.notified()

    def _one_by_one(self, finished: Sequence[Finished]) -> None:
        for index, one in enumerate(finished):
            try:
                self._settle_whole([one])
            except ConnectionFailed:
                self._unsettled = [*finished[index + 1 :], *self._unsettled]
                raise

    def _settle_refused(self, one: Finished, error: WerkError) -> dict[str, Verdict]:
        """Record an outcome that Postgres refuses as a failure, with its reason."""
        job = one.claimed.job
        logger.error("the outcome of job %s (%s) cannot be stored: %s", job.id, job.function, error)
        reason = storable_text(f"the outcome could not be stored: {error}", 2000)
        report = Report(job.id, one.claimed.claim, Failed(reason, final=True))
        return self._ask(settle([report], self.identity.id))

    def _done(self, finished: Sequence[Finished]) -> None:
        """Forget jobs that are settled."""
        verbose = logger.isEnabledFor(logging.DEBUG)
        for one in finished:
            claimed = self._held.pop(one.claimed.job.id, None)
            if claimed is None:
                continue
            left = self._open_claims[claimed.claim] - 1
            if left:
                self._open_claims[claimed.claim] = left
            else:
                del self._open_claims[claimed.claim]
                self._retiring.append(claimed.claim)
            if verbose or not isinstance(one.outcome, Succeeded):
                _log_end(one)
        self.settled += len(finished)
        self._agenda.finished(len(finished), monotonic())

    def interrupt(self, ids: Sequence[str]) -> None:
        """Abort running jobs; those that only wait in the buffer end at once."""
        wanted = set(ids)
        self._crew.interrupt(JobAborted, wanted)
        waiting = self._crew.take_back()
        now = monotonic()
        self._unsettled += [Finished(c, Aborted(), now, now) for c in waiting if c.job.id in wanted]
        self._crew.submit([c for c in waiting if c.job.id not in wanted])

    @property
    def held(self) -> list[Job]:
        """The jobs that are ours."""
        return [claimed.job for claimed in self._held.values()]

    def _ask(self, op: Operation[R]) -> R:
        return self._session.run(op)

    def ask(self, op: Operation[R]) -> R:
        """Run an operation on the worker's connection, for duties."""
        return self._ask(op)

    @property
    def session(self) -> Session:
        """The connection, for duties that are procedures."""
        return self._session

    def _leave(self) -> None:
        if not self._session.connected:
            return
        try:
            if self._retiring:
                self._ask(claims.retire(self._retiring))
            self._ask(workers.leave(self.identity.id))
        except WerkError as error:
            logger.warning("could not say goodbye: %s", error)


def _report(one: Finished, now: float) -> Report:
    return Report(one.claimed.job.id, one.claimed.claim, one.outcome, now - one.began, now - one.ended)


def _log_end(one: Finished) -> None:
    job = one.claimed.job
    seconds = one.ended - one.began
    if isinstance(one.outcome, Succeeded):
        logger.debug("job %s (%s) complete in %.3f s", job.id, job.function, seconds)
    elif isinstance(one.outcome, Failed):
        logger.warning(
            "job %s (%s) failed, attempt %d of %d: %s",
            job.id, job.function, job.attempts, job.max_attempts, reason_of(one.outcome.error),
        )  # fmt: skip
    elif isinstance(one.outcome, Interrupted):
        logger.debug("job %s (%s) given back", job.id, job.function)
    else:
        logger.info("job %s (%s) %s after %.3f s", job.id, job.function, type(one.outcome).__name__.lower(), seconds)
