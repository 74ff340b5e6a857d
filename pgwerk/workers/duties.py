"""What a worker does apart from running jobs, one method for each duty."""

import logging
import math
from collections.abc import Sequence
from typing import Protocol, assert_never

from pgwerk._core.agenda import Agenda, Duty
from pgwerk._core.ids import normal_id
from pgwerk._core.operations.settle import release_waiting
from pgwerk._core.procedures import sweep
from pgwerk._core.statements import closing, workers
from pgwerk._core.statements.claims import Claimed
from pgwerk._runs import monotonic
from pgwerk.workers.identity import Identity
from pgwerk.workers.session import Session
from pgwerk.workers.vitals import Vitals

logger = logging.getLogger("pgwerk.worker")

TOUCHES = 3
"""How often a job with a heartbeat is renewed within it."""


class Coordinator(Protocol):
    """What duties need of whoever has them carried out."""

    identity: Identity
    session: Session
    agenda: Agenda
    vitals: Vitals

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

    def beaten(self, idle: bool) -> None:  # what the database says
        """Take note of a heartbeat, and whether producers think that this worker sleeps."""
        ...

    def reconcile(self) -> None:
        """Give back jobs that got lost between claim and handler."""
        ...


class Duties:
    """Carries out the duties of one coordinator."""

    def __init__(self, coordinator: Coordinator, liveness: float, stuck: float) -> None:
        self._coordinator = coordinator
        self._liveness = liveness
        self._stuck = stuck
        self._told = (0, 0, monotonic())
        """How many jobs had ended, and failed, at which time."""
        self._thorough_at = monotonic() + self._stuck / 4
        """When to look for active rows that no worker claimed."""
        self.touch_at = math.inf
        """When jobs with a heartbeat have to be renewed next."""

    def do(self, duty: Duty) -> None:
        """Carry out one duty."""
        match duty:
            case Duty.HEARTBEAT:
                self._heartbeat()
            case Duty.RECOVER:
                self._recover()
            case Duty.PROMOTE:
                self._promote()
            case Duty.SWEEP:
                self._sweep()
            case Duty.ABORTS:
                self._aborts()
            case _:
                assert_never(duty)

    def register(self) -> None:
        """Write the worker's row."""
        me = self._coordinator.identity
        sent = monotonic()
        self._coordinator.session.run(workers.register(me.id, me.name, me.queues, me.metadata, self._liveness))
        self._coordinator.vitals.beaten = sent

    def _beat(self) -> bool:
        """Renew the worker's row; False when there is none."""
        sent = monotonic()
        beat = self._coordinator.session.run(workers.heartbeat(self._coordinator.identity.id, self._liveness))
        if beat.known:
            self._coordinator.vitals.beaten = sent
        self._coordinator.agenda.peers_expire_in(beat.next_expiry, monotonic())
        self._coordinator.beaten(beat.idle)
        return beat.known

    def _heartbeat(self) -> None:
        if not self._beat():
            logger.warning("the row of this worker was gone: registering again")
            self.register()
        self._coordinator.reconcile()
        self._summarize()

    def _summarize(self) -> None:
        """Say what was done since the last time, if anything was."""
        ended, failed, held = self._coordinator.figures
        before, self._told = self._told, (ended, failed, monotonic())
        if ended > before[0]:
            logger.info(
                "%d jobs ended in %.0f s, %d of them not well; %d held",
                ended - before[0], self._told[2] - before[2], failed - before[1], held,
            )  # fmt: skip

    def _recover(self) -> None:
        swept = self._coordinator.session.perform(sweep.recover(self._liveness))
        for name in swept.lost_workers:
            logger.warning("worker %s was not heard of in time", name)
        if swept.recovered:
            logger.warning("recovered %d jobs that nobody ran any more", len(swept.recovered))
            self._coordinator.agenda.notified()
        _tell_refused(swept)
        if swept.lost_workers:
            # To know when the next one counts as dead.
            _ = self._beat()

    def _promote(self) -> None:
        promoted = self._coordinator.session.perform(sweep.promote_due())
        self._coordinator.agenda.due_in(promoted.next_due, monotonic())
        if promoted.moved:
            self._coordinator.agenda.notified()

    def _sweep(self) -> None:
        thorough = monotonic() >= self._thorough_at
        if thorough:
            self._thorough_at = monotonic() + self._stuck / 4
        steps = sweep.sweep(self._liveness, self._stuck if thorough else None)
        swept = self._coordinator.session.perform(steps)
        _tell_refused(swept)
        self._coordinator.agenda.due_in(swept.next_due, monotonic())
        self._coordinator.agenda.notified()

    def _aborts(self) -> None:
        held = [one.id for one in self._coordinator.held]
        if held:
            wanted = self._coordinator.session.run(closing.aborting(held))
            if wanted:
                self._coordinator.interrupt(wanted)

    # Notifications ----------------------------------------------------------------

    def heard(self, payload: str) -> None:
        """Act on a notification: its first letter says what it is about."""
        kind, rest = payload[:1], payload[1:]
        agenda = self._coordinator.agenda
        now = monotonic()
        if kind == "q":
            if rest in self._coordinator.identity.queues:
                agenda.notified()
        elif kind == "d":
            agenda.due_in(_seconds(rest), now)
        elif kind == "a":
            if rest == self._coordinator.identity.id:
                agenda.do(Duty.ABORTS, now)
        elif kind == "w" and self._coordinator.session.run(release_waiting(ids_in(rest))):
            agenda.notified()

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
            _ = self._coordinator.session.run(closing.touch([(one.id, one.claim) for one in beating]))
            self.touch_within(min(one.heartbeat_secs or math.inf for one in beating), now)


def _tell_refused(swept: sweep.Swept) -> None:
    for job_id, reason in swept.refused:
        logger.error("job %s could not be looked after: %s", job_id, reason)


def ids_in(text: str) -> list[str]:
    """The ids that a notification names; whatever else is in it came from somebody else."""
    return [found for part in text.split(",") if (found := normal_id(part)) is not None]


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
