"""One turn of a worker: what ended is written and what is free is filled."""

import logging
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from pgwerk._app.ports import WorkerConnection
from pgwerk._core.agenda import Agenda
from pgwerk._core.claim import Claim, Claimed
from pgwerk._core.cursor import Cursor
from pgwerk._core.job import DequeueStrategy, JobStatus
from pgwerk._core.lifecycle import DONE, MAX_LOST, Verdict, decide
from pgwerk._core.operations.settle import release_waiting, settle
from pgwerk._core.operations.turn import Answer, Turn, turn
from pgwerk._core.outcome import SUCCEEDED, Aborted, Failed, Interrupted, Report, Succeeded, TimedOut
from pgwerk._core.payload import storable_text
from pgwerk._core.procedures.isolate import is_locked, refuses_a_value, unclaimable
from pgwerk._core.statements import running
from pgwerk._core.statements.upkeep import give_up
from pgwerk._handlers.run import monotonic
from pgwerk.errors import WerkError
from pgwerk.workers.coordinating.aside import BUDGET, PATIENCE, Aside
from pgwerk.workers.coordinating.held import HeldJobs
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.coordinating.untouchable import UntouchableJobs
from pgwerk.workers.crews.base import Finished
from pgwerk.workers.reporting.endings import log_end
from pgwerk.workers.supervising.begun import BegunJobs

logger = logging.getLogger("pgwerk.worker")

FEW = 64
"""Of fewer jobs than these it does not matter how many more are looked at."""
_PARENTS = (Succeeded, Failed)
"""Ends that others may have waited for."""


class TurnLoop:
    """Sends turns, and keeps what the next one has to look at again."""

    def __init__(
        self,
        identity: Identity,
        session: WorkerConnection,
        agenda: Agenda,
        strategy: DequeueStrategy,
        start: Callable[[Sequence[Claimed]], None],
    ) -> None:
        self._identity = identity
        self._session = session
        self._agenda = agenda
        self._strategy = strategy
        self._start = start
        self.ledger = HeldJobs()
        self.max_lost = MAX_LOST
        """How often a job may be lost that has no limit of its own."""
        self.blame: str | None = None
        """Why this worker has to end, if what it runs may be to blame."""
        self.begun: BegunJobs | None = None
        """Where somebody looks for what has begun, and is not settled."""
        self.unsettled: list[Finished] = []
        """Runs that are over and not written; see `over`."""
        self.aside = Aside()
        """Runs that are over, and could not be written when the others were."""
        self._untouchable = UntouchableJobs()
        """Jobs that could neither be claimed nor failed."""
        self._careful = 0
        """How many jobs to claim one by one: among so many, there is one that cannot be read."""
        self._refused = False
        """Whether the last turn had outcomes to write, and failed."""
        self._fresh: Claim | None = None
        """What was claimed last, before `begin`."""
        self._parents: list[str] = []
        """Jobs that ended in the last turn: who committed a dependent meanwhile could not see it."""
        self._keys: set[str] = set()
        """Groups that the last turn released or denied: the two can pass each other."""
        self._dozing: bool | None = None
        """Whether producers think that this worker sleeps; None when that is not known."""
        self._cursor = Cursor()
        self._in_turns = strategy is not DequeueStrategy.Priority
        self._first = 0
        """The queue whose turn it is."""
        self._sources = len(identity.queues)
        """How many queues had jobs for us the last time."""
        self._share = 1.0
        """Which part of the last claim was of the queue that gave most."""
        self.settled = 0
        """How many outcomes were written."""
        self.failed = 0
        self.interrupted = 0
        """How many running jobs were interrupted by a shutdown and given back."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to write or to look at again."""
        return self.hopeless and not self.aside

    @property
    def hopeless(self) -> bool:
        """Whether all that is left is what could not be written."""
        return not (self.unsettled or self._parents or self._keys)

    def thought_to_doze(self, dozing: bool | None) -> None:
        """Take note of what producers think: the database may have forgotten, or others took us for dead.

        It was so a moment ago. What differs from what we think is written again, whoever is right.
        """
        if dozing is not self._dozing:
            self._dozing = None

    def over(self, finished: Sequence[Finished]) -> None:
        """Take runs that are over: they are written in the next turn, whose claim may fill their places already."""
        if self.blame is not None:
            for one in finished:
                if isinstance(one.outcome, Interrupted):
                    one.outcome = replace(one.outcome, blame=self.blame)
        self.unsettled += finished
        self._agenda.finished(len(finished), monotonic())

    def take(self, count: int, *, doze: bool) -> bool:
        """Write what ended and claim *count* jobs, which `begin` starts; False when there was nothing to ask for."""
        # While Postgres refuses what ended, nothing more is run that could not be written either.
        claimable, self._refused = 0 if self._refused else count, bool(self.unsettled)
        if self._careful:
            claimable = min(claimable, 1)
        if self.aside.full:
            claimable = 0
        taken = self._take(claimable, doze=doze)
        self._refused = False
        if self.aside and self.aside.next_at <= monotonic():
            self.begin()
            self.aside.retry(lambda one: self._settle_whole([one], PATIENCE))
        return taken

    def _take(self, count: int, *, doze: bool) -> bool:
        finished, self.unsettled = self.unsettled, []
        entries = self._plain_verdicts(finished)
        ask = Turn(
            worker=self._identity.id,
            queues=self._cursor.ranges(self._queues(), monotonic()) if count else (),
            count=count,
            in_turns=self._in_turns,
            each=self._each(count),
            skip=self._untouchable.ids(monotonic()) if self._untouchable else (),
            closing=entries,
            retiring=self.ledger.retiring,
            parents=self._parents,
            keys=sorted(self._keys),
            dozing=doze if doze is not self._dozing else None,
        )
        if not (ask.count or finished or ask.parents or ask.keys or ask.dozing is not None):
            self.begin()
            return False
        self._agenda.claiming()
        try:
            # What the last turn brought is read and started while Postgres works on this one.
            answer = self._session.run(turn(ask), self.begin)
        except WerkError as error:
            self.begin()
            if finished and is_locked(error):
                self._part_from_locked(finished, error)
                return True
            if not refuses_a_value(error):
                self.unsettled = finished
                raise
            if not entries:
                self.unsettled = finished
                self._isolate(ask, error)
                return True
            # One of them cannot be written: find it, and do not let it hold up the others.
            logger.warning("Postgres refused a batch of outcomes; writing them one by one: %s", error)
            self._one_by_one(finished)
            return True
        self.ledger.retiring, self._parents, self._keys = [], [], set()
        self._agenda.turned(monotonic())
        self._dozing = doze
        self._expect(verdict for _, verdict in entries if verdict is not DONE)
        done, left = _divided(finished, answer.closed)
        # Before what was claimed is looked at: a job that went back in this turn may have come again in it.
        self._done(done, {report.job_id: verdict for report, verdict in entries if verdict is not DONE})
        self._claimed(count, answer)
        self._parents = [one.claimed.id for one in finished if isinstance(one.outcome, _PARENTS)]
        if left or answer.late:
            self.begin()
        if left:
            self._settle_whole(left)
        if answer.late:
            _ = self._session.run(release_waiting(answer.late))
            self._agenda.notified()
        return True

    def _isolate(self, ask: Turn, error: WerkError) -> None:
        """Give up the jobs that cannot be claimed; raises *error* when that is not the reason."""
        if ask.count and self._part_from_unreadable(error):
            return
        if not ask.count:
            raise error
        failed, stuck = self._session.perform(unclaimable(self._identity.queues, ask.count, ask.skip))
        if not failed and not stuck:
            raise error
        for job_id, reason in failed:
            logger.error("job %s could not be claimed: %s", job_id, reason)
        for job_id, reason in stuck:
            self._untouchable.put(job_id, reason, monotonic())
        self._cursor.reset()

    def begin(self) -> None:
        """Start what the last turn claimed, if that has not been done."""
        claim, self._fresh = self._fresh, None
        if claim is not None:
            self.ledger.add(claim.jobs)
            self._start(claim.jobs)

    def _plain_verdicts(self, finished: Sequence[Finished]) -> list[tuple[Report, Verdict]]:
        """The verdicts of jobs whose end is one row and one execution."""
        now, draw = monotonic(), random.random
        return [
            (
                _report(one, now),
                # What most jobs come to, without a look at the job itself.
                DONE
                if one.claimed.bare and one.outcome is SUCCEEDED
                else decide(one.claimed.job, one.outcome, draw(), self.max_lost),
            )
            for one in finished
            if one.claimed.plain and not isinstance(one.outcome, Aborted)
        ]

    def _each(self, count: int) -> int | None:
        """How many of each queue to look at, and lock, for a claim of *count*; None: as many as that."""
        if self._in_turns:
            return -(-count // self._sources)
        # By priority all may be of one queue. Half as many again as the last time are enough until that changes.
        most = math.ceil(1.5 * self._share * count)
        return most if count >= FEW and most < count else None

    def _queues(self) -> Sequence[str]:
        queues = self._identity.queues
        if self._strategy is DequeueStrategy.Random:
            return random.sample(queues, len(queues))
        return (*queues[self._first :], *queues[: self._first])

    def _claimed(self, asked: int, answer: Answer) -> None:
        if answer.readied:
            self._agenda.notified()
        claim = answer.claim
        if claim is None:
            return
        if self._careful:
            self._careful = self._careful - 1 if len(claim) else 0
            self._agenda.notified()
        now, got = monotonic(), len(claim)
        full = claim.curbed or got + claim.passed_over >= asked
        # Behind a cursor, less than asked says nothing about what is in front of it.
        asked = got if claim.curbed or not self._cursor.whole else asked
        self._agenda.claimed(asked, got, now, denied=claim.passed_over)
        self._sources = len(claim.last) or len(self._identity.queues)
        self._share = claim.largest / got if got >= FEW else 1.0
        self._cursor.claimed(claim.last, now, full=full)
        self._keys.update(claim.denied)
        if got:
            self._fresh = claim
            if self._strategy is DequeueStrategy.RoundRobin:
                # Or a worker that takes one job at a time would take all of them from its first queue.
                last = self._identity.queues.index(claim.last_queue)
                self._first = (last + 1) % len(self._identity.queues)

    def missing(self, running: Iterable[str]) -> list[Claimed]:
        """Find held jobs that nobody knows of any more, given those that run and that nothing is on its way."""
        return self.ledger.without({*running, *(one.claimed.id for one in self.unsettled), *self.aside.ids})

    # More than a row --------------------------------------------------------------

    def _settle_whole(self, finished: Sequence[Finished], patience: float | None = None) -> None:
        """Settle in a transaction of several statements: what has more consequences than its own row."""
        now = monotonic()
        reports = [_report(one, now) for one in finished]
        try:
            verdicts = self._session.run(
                settle(reports, self._identity.id, random.random(), self.max_lost), patience=patience
            )
        except WerkError as error:
            locked = is_locked(error)
            if not locked and not refuses_a_value(error):
                self.unsettled = [*(one for one in finished if one.claimed.id not in self.aside.ids), *self.unsettled]
                raise
            if len(finished) > 1:
                self._one_by_one(finished)
                return
            if locked:
                self.aside.put(finished[0], "another session holds a lock that it needs")
                return
            refused = self._settle_refused(finished[0], error)
            if refused is None:
                return
            verdicts = refused
        self._done(finished, verdicts)
        self._expect(verdicts.values())
        for one in finished:
            job = one.claimed.job
            if job.id not in verdicts:
                logger.warning(
                    "job %s (%s) no longer belongs to this worker; dropping its outcome", job.id, job.function
                )
            elif job.group_key:
                self._keys.add(job.group_key)
        self._parents += [one.claimed.id for one in finished]
        # What was released may be for us.
        self._agenda.notified()

    def _one_by_one(self, finished: Sequence[Finished]) -> None:
        until = monotonic() + BUDGET
        for index, one in enumerate(finished):
            if monotonic() > until:
                # Each had to wait for a lock, and the claims with it.
                self.aside.delay(finished[index:])
                break
            try:
                self._settle_whole([one], PATIENCE)
            except WerkError:
                self.unsettled = [*self.unsettled, *finished[index + 1 :]]
                raise

    def _settle_refused(self, one: Finished, error: WerkError) -> dict[str, Verdict] | None:
        """Record an outcome that Postgres refuses as a failure, with its reason; None when that cannot be either."""
        job = one.claimed.job
        logger.error("the outcome of job %s (%s) cannot be stored: %s", job.id, job.function, error)
        outcome = one.outcome
        reason = _plain(storable_text(f"the outcome could not be stored: {error}", 2000))
        if isinstance(outcome, Failed | TimedOut):
            # The text of its error, perhaps; what becomes of it is as it was.
            outcome = replace(outcome, error=_plain(outcome.error))
        else:
            outcome = Failed(reason, final=True)
        report = _report(one, monotonic())._replace(outcome=outcome)
        try:
            return self._session.run(settle([report], self._identity.id))
        except WerkError as again:
            if is_locked(again):
                self.aside.put(one, again)
                return None
            if not refuses_a_value(again):
                if one.claimed.id not in self.aside.ids:
                    self.unsettled = [one, *self.unsettled]
                raise
            # Something else in the row: at least it does not stay active for ever.
            try:
                _ = self._session.run(give_up(job.id, reason, one.claimed.claim))
            except WerkError as last:
                self.aside.put(one, last)
                return None
            return {job.id: Verdict(JobStatus.FAILED)}

    # What holds up others -----------------------------------------------------------

    def _part_from_locked(self, finished: list[Finished], error: WerkError) -> None:
        """Somebody holds a lock: find the jobs that are locked, so that the next turn writes the others."""
        try:
            locked = set(self._session.run(running.locked([one.claimed.id for one in finished]), patience=PATIENCE))
        except WerkError:
            # The whole table, or the connection.
            self.unsettled = finished
            raise
        if not locked:
            # Something else that the turn had to write; claims that are settled are forgotten by the sweep, too.
            logger.debug("a turn had to wait for a lock: %s", error)
            self.ledger.retiring = []
            self._one_by_one(finished)
            return
        self.unsettled = [one for one in finished if one.claimed.id not in locked]
        for one in finished:
            if one.claimed.id in locked:
                self.aside.put(one, "another session holds a lock on its row")

    def _part_from_unreadable(self, error: WerkError) -> bool:
        """What was claimed cannot be understood: find the job and let it fail. False: there is none."""
        strays = self._session.run(running.stray(self._identity.id, self.ledger.claims))
        if len(strays) > 1:
            logger.warning("claimed jobs cannot be read; claiming them one by one: %s", error)
            self._session.run(running.return_unread(strays))
            self._careful = len(strays)
        elif strays:
            job_id = strays[0][0]
            logger.error("job %s cannot be read; failing it: %s", job_id, error)
            reason = _plain(storable_text(f"its row could not be read: {error}", 2000))
            self._session.run(running.fail_unread(strays, reason))
        else:
            return False
        self._agenda.notified()
        return True

    def _expect(self, verdicts: Iterable[Verdict]) -> None:
        """Wake up when the next attempts and repetitions are due."""
        both = ((delay, v.uncount) for v in verdicts for delay in (v.delay, v.repeat) if delay is not None)
        # What is given back is for others, unless it has to wait.
        delays = [delay for delay, given_back in both if delay or not given_back]
        if delays:
            self._agenda.due_in(min(delays), monotonic())
            if not min(delays):
                self._agenda.notified()

    def _done(self, finished: Sequence[Finished], verdicts: Mapping[str, Verdict]) -> None:
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


def _divided(finished: list[Finished], ids: Sequence[str]) -> tuple[list[Finished], list[Finished]]:
    """Those with these ids, which are theirs in any case, and the others."""
    if len(ids) == len(finished):
        return finished, []
    chosen = set(ids)
    inside = [one for one in finished if one.claimed.id in chosen]
    return inside, [one for one in finished if one.claimed.id not in chosen]


def _plain(text: str) -> str:
    """A text that every database can store."""
    return text.encode("ascii", "backslashreplace").decode()


def _report(one: Finished, now: float) -> Report:
    return Report(one.claimed.id, one.claimed.claim, one.outcome, now - one.began, now - one.ended)
