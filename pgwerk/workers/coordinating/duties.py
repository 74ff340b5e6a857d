"""What a worker does apart from running jobs, one method for each duty."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from pgwerk._app.ports import WorkerConnection
from pgwerk._core import notifications
from pgwerk._core.agenda import Agenda, Duty
from pgwerk._core.claim import Claimed
from pgwerk._core.operations.settle import release_waiting
from pgwerk._core.procedures import sweep
from pgwerk._core.statements import running, workers
from pgwerk._core.statements.workers import Beat
from pgwerk._handlers.run import monotonic
from pgwerk.errors import ConnectionFailed, WerkError
from pgwerk.workers.coordinating.chores import Chores
from pgwerk.workers.coordinating.heartbeats import HeartbeatThread
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.reporting.endings import count

logger = logging.getLogger("pgwerk.worker")

TOUCHES = 3
"""How many times a job's heartbeat is renewed within its interval."""
RESTART = 10.0
"""Seconds between two looks for claimed jobs that have not begun: well within the grace of others for a timeout."""


class Coordinator(Protocol):
    """What duties need of whoever has them carried out."""

    identity: Identity
    session: WorkerConnection
    agenda: Agenda
    heart: HeartbeatThread

    @property
    def held(self) -> list[Claimed]:
        """The jobs that are ours."""
        ...

    @property
    def figures(self) -> tuple[int, int, int]:
        """How many jobs ended, how many of them failed or timed out, and how many are held."""
        ...

    def interrupt(self, ids: Sequence[str]) -> None:
        """Abort jobs that are ours."""
        ...

    def reconcile(self) -> None:
        """Give back jobs that got lost between claim and handler, or between Postgres and us."""
        ...

    def unbegun(self) -> list[Claimed]:
        """The jobs with a timeout whose handlers have not begun."""
        ...


class Duties:
    """Carries out the duties of one coordinator."""

    def __init__(self, coordinator: Coordinator, liveness: float, stuck: float, max_lost: int) -> None:
        self._coordinator = coordinator
        self._liveness = liveness
        self._stuck = stuck
        self._max_lost = max_lost
        self._told = (0, 0, monotonic())
        """How many jobs had ended, and failed, at which time."""
        self._thorough_at = monotonic() + self._stuck / 4
        """When to look for active rows that no worker claimed."""
        self.touch_at = math.inf
        """When jobs with a heartbeat have to be renewed next."""
        self.restart_at = math.inf
        """When to look for jobs that have not begun."""
        self._chores = Chores()
        self._failing: set[Duty] = set()

    def do(self, duty: Duty) -> None:
        """Carry out one duty, or begin to; one that fails keeps nothing else from being done."""
        try:
            ACTIONS[duty](self)
        except ConnectionFailed:
            raise
        except WerkError as error:
            self._complain(duty, error)
        else:
            self._failing.discard(duty)

    def _complain(self, duty: Duty, error: WerkError) -> None:
        if self._coordinator.agenda.pace.burst:
            raise error
        # While nothing works, whoever claims and settles says so.
        level = logging.DEBUG if duty in self._failing or self._coordinator.session.troubled else logging.WARNING
        logger.log(level, "could not %s, retrying at the next interval: %s", duty.rule.purpose, error)
        self._failing.add(duty)

    @property
    def busy(self) -> bool:
        """Whether something that takes several transactions has been begun."""
        return bool(self._chores)

    def go_on(self) -> None:
        """Do the next transaction of what has been begun: jobs need not wait for all of them."""
        duty = self._chores.first
        if duty is None:
            return
        try:
            self._chores.go_on(self._coordinator.session.run)
        except ConnectionFailed:
            self._chores.drop()
            raise
        except WerkError as error:
            self._complain(duty, error)

    def drop(self) -> None:
        """Leave it to others."""
        self._chores.drop()

    def register(self) -> float:
        """Write the worker's row; when that was asked for."""
        me = self._coordinator.identity
        sent = monotonic()
        self._coordinator.session.run(workers.register(me.id, me.name, me.queues, me.metadata, self._liveness))
        return sent

    def beaten(self, beat: Beat) -> None:
        """Take note of the answer to a heartbeat."""
        if beat.next_expiry is not None:
            # Whoever was silent while we were away has time to be heard of again.
            wait = max(beat.next_expiry, self._liveness - self._coordinator.heart.seen)
            self._coordinator.agenda.peers_expire_in(wait, monotonic())

    def look_after_held(self) -> None:
        """Heartbeats are sent by another thread; this is what is looked after as often."""
        self._coordinator.reconcile()
        self._summarize()

    def _summarize(self) -> None:
        """Say what was done since the last time, if anything was."""
        ended, failed, held = self._coordinator.figures
        before, self._told = self._told, (ended, failed, monotonic())
        if ended > before[0]:
            logger.info(
                "finished %s in %.0f s (%d failed), %d in progress",
                count(ended - before[0], "job"), self._told[2] - before[2], failed - before[1], held,
            )  # fmt: skip

    def recover_jobs(self) -> None:
        """Begin to recover the jobs of dead workers."""
        self._chores.begin(
            Duty.RECOVER,
            sweep.recover(self._liveness, self._max_lost, seen=self._coordinator.heart.seen),
            self._recovered,
        )

    def _recovered(self, swept: sweep.Swept) -> None:
        for name in swept.lost_workers:
            logger.warning("worker %s stopped sending heartbeats", name)
        if swept.recovered:
            logger.warning("recovered %s that no worker runs any more", count(len(swept.recovered), "job"))
        if swept.recovered or swept.readied:
            self._coordinator.agenda.notified()
        _tell_refused(swept)
        if swept.lost_workers:
            # To know when the next one counts as dead.
            self._coordinator.heart.soon()

    def promote_jobs(self) -> None:
        """Queue scheduled jobs that are due."""
        promoted = self._coordinator.session.perform(sweep.promote_due())
        self._coordinator.agenda.due_in(promoted.next_due, monotonic())
        if promoted.moved:
            self._coordinator.agenda.notified()

    def sweep_tables(self) -> None:
        """Begin a sweep; now and then one that also looks for active rows that no worker claimed."""
        thorough = monotonic() >= self._thorough_at
        if thorough:
            self._thorough_at = monotonic() + self._stuck / 4
        steps = sweep.sweep(
            self._liveness, self._stuck if thorough else None, self._max_lost, seen=self._coordinator.heart.seen
        )
        self._chores.begin(Duty.SWEEP, steps, self._swept)

    def _swept(self, swept: sweep.Swept) -> None:
        _tell_refused(swept)
        self._coordinator.agenda.due_in(swept.next_due, monotonic())
        self._coordinator.agenda.notified()

    def abort_jobs(self) -> None:
        """Interrupt the jobs that were asked to abort."""
        held = [one.id for one in self._coordinator.held]
        if held:
            wanted = self._coordinator.session.run(running.aborting(held))
            if wanted:
                self._coordinator.interrupt(wanted)

    # Notifications ----------------------------------------------------------------

    def heard(self, payload: str) -> None:
        """Act on a notification."""
        agenda = self._coordinator.agenda
        match notifications.parse(payload):
            case notifications.Queued(queue):
                if queue in self._coordinator.identity.queues:
                    agenda.notified()
            case notifications.Due(seconds):
                agenda.due_in(seconds, monotonic())
            case notifications.Abort(worker_id):
                if worker_id == self._coordinator.identity.id:
                    agenda.do(Duty.ABORTS, monotonic())
            case notifications.Waiting(ids):
                if self._coordinator.session.run(release_waiting(ids)):
                    agenda.notified()
            case None:
                # A probe, or a notification of somebody else's.
                pass

    # Heartbeats of jobs -----------------------------------------------------------

    def touch_within(self, seconds: float, now: float) -> None:
        """A job was claimed that has to be renewed every *seconds*."""
        self.touch_at = min(self.touch_at, now + seconds / TOUCHES)

    def touch(self, now: float) -> None:
        """Renew the jobs that asked for it, when it is time."""
        if now < self.touch_at:
            return
        self.touch_at = math.inf
        beating = [one for one in self._coordinator.held if one.heartbeat_secs is not None]
        if beating:
            _ = self._coordinator.session.run(running.touch([(one.id, one.claim) for one in beating]))
            self.touch_within(min(one.heartbeat_secs or math.inf for one in beating), now)

    # Timeouts ---------------------------------------------------------------------

    def begin_within(self, now: float) -> None:
        """A job with a timeout was claimed: others count its time from now on."""
        self.restart_at = min(self.restart_at, now + RESTART)

    def restart(self, now: float) -> None:
        """Tell others, when it is time, that jobs which have not begun are not late."""
        if now < self.restart_at:
            return
        self.restart_at = math.inf
        waiting = self._coordinator.unbegun()
        if waiting:
            self._coordinator.session.run(running.restart_clocks([(one.id, one.claim) for one in waiting]))
            self.begin_within(now)


ACTIONS: Mapping[Duty, Callable[[Duties], None]] = {
    Duty.HEARTBEAT: Duties.look_after_held,
    Duty.RECOVER: Duties.recover_jobs,
    Duty.PROMOTE: Duties.promote_jobs,
    Duty.SWEEP: Duties.sweep_tables,
    Duty.ABORTS: Duties.abort_jobs,
}
"""How each duty is carried out; when, says `Duty`."""


def _tell_refused(swept: sweep.Swept) -> None:
    for job_id, reason in swept.refused:
        logger.error("could not recover or release job %s: %s", job_id, reason)
