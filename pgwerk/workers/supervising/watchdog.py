"""A prefork parent's eye on its children: beat for the starved, kill the stuck, tell the world how they fare."""

import logging
import signal
from collections.abc import Iterable

from pgwerk._core.agenda import Pace
from pgwerk._core.child_liveness import ChildLiveness, Look
from pgwerk._handlers.run import monotonic
from pgwerk.workers.crews.base import Crew
from pgwerk.workers.reporting.report import Condition, Reporter, in_words
from pgwerk.workers.supervising.handle import ChildHandle, is_suspended
from pgwerk.workers.supervising.helpers import HelperProcesses
from pgwerk.workers.supervising.shared_heartbeats import SharedHeartbeats, shared_vitals

logger = logging.getLogger("pgwerk.worker")


class Watchdog:
    """Looks at the shared heartbeats of the children, and does what `ChildLiveness` says."""

    def __init__(self, slots: int, pace: Pace, liveness: float, helpers: HelperProcesses, reporter: Reporter) -> None:
        self._liveness_of_children = ChildLiveness(slots, pace.heartbeat, Crew.grace)
        self._vitals = shared_vitals(slots)
        self._pace = pace
        self._liveness = liveness
        self._helpers = helpers
        self._reporter = reporter
        self._slots = slots
        self._ended = [0, 0]
        """What children that are gone have done: how many jobs ended, and failed."""
        self._probing = False
        self._unheard = False
        """Whether the last renewal did not arrive."""

    def started(self, slot: int) -> SharedHeartbeats:
        """A child is about to be forked; where it will show that it lives."""
        now = monotonic()
        self._vitals[slot].clear(now)
        self._liveness_of_children.started(slot, now)
        return self._vitals[slot]

    def ended(self, slot: int, *, for_good: bool) -> None:
        """The child of a slot is gone."""
        ended, failed, _ = self._vitals[slot].figures
        self._ended = [self._ended[0] + ended, self._ended[1] + failed]
        self._vitals[slot].clear(monotonic())
        self._liveness_of_children.ended(slot, for_good=for_good)

    def reap(self) -> None:
        """Hear of what was sent for children."""
        arrived = self._helpers.reap()
        if arrived is not None:
            self._renewed(arrived=arrived)

    def _renewed(self, *, arrived: bool) -> None:
        self._liveness_of_children.renewed(monotonic(), arrived=arrived)
        probing, self._probing = self._probing, False
        if probing:
            return
        if arrived is self._unheard:
            self._unheard = not arrived
            if arrived:
                logger.info("heartbeats on behalf of children arrive again")
            else:
                logger.warning("could not send a heartbeat on behalf of a child; retrying until it works")

    def look(self, children: Iterable[ChildHandle], *, stopping: bool) -> float:
        """Look at the living; how long (seconds) until the next look."""
        now = monotonic()
        by_slot = {process.slot: process for process in children}
        if self._liveness_of_children.wait(now) <= 0:
            signs = {s: self._vitals[s].signs(stopped=is_suspended(process.pid)) for s, process in by_slot.items()}
            self._act(self._liveness_of_children.look(signs, now), by_slot, now)
        wait = self._liveness_of_children.wait(now)
        if self._reporter.wanted:
            self._reporter.report(self._condition(by_slot, now, stopping=stopping), now)
            wait = min(wait, self._reporter.between)
        return wait

    def _act(self, look: Look, by_slot: dict[int, ChildHandle], now: float) -> None:
        for slot in look.kill:
            process = by_slot[slot]
            late = now - self._vitals[slot].enforce_at
            process.doom = f"a handler did not let it stop anything for {late:.0f} s past a timeout"
            logger.error("child %d is stuck: %s. Killing it", process.pid, process.doom)
            process.signal(signal.SIGKILL)
        for slot in look.mute:
            process = by_slot[slot]
            process.doom = "its threads run and Postgres answers others, but it sends no heartbeats any more"
            logger.error("child %d is stuck: %s. Killing it", process.pid, process.doom)
            process.signal(signal.SIGKILL)
        if look.probe:
            self._probing = True
            self._liveness_of_children.renewing((), now)
            if not self._helpers.renew((), self._liveness, self._pace.heartbeat):
                self._renewed(arrived=False)
        for slot in look.starving:
            logger.warning(
                "child %d is alive but none of its threads can run: a handler holds the interpreter lock. "
                "Sending heartbeats on its behalf",
                by_slot[slot].pid,
            )
        for slot in look.speaking:
            logger.info("child %d sends its own heartbeats again", by_slot[slot].pid)
        if look.renew:
            ids = [by_slot[slot].worker_id for slot in look.renew]
            self._liveness_of_children.renewing(look.renew, now)
            if not self._helpers.renew(ids, self._liveness, self._pace.heartbeat):
                self._renewed(arrived=False)

    @property
    def held(self) -> int:
        """How many jobs the children hold, as they said last."""
        return sum(vitals.figures[2] for vitals in self._vitals)

    def _condition(self, by_slot: dict[int, ChildHandle], now: float, *, stopping: bool) -> Condition:
        alive = [self._vitals[slot].figures for slot in by_slot]
        ended, failed = (before + sum(one[n] for one in alive) for n, before in enumerate(self._ended))
        status = f"{len(by_slot)} of {self._slots} processes; {in_words(ended, failed, sum(one[2] for one in alive))}"
        return Condition(self._liveness_of_children.complete, self._liveness_of_children.well(now), stopping, status)
