"""Which children of a prefork parent still show that they live, and what to do about the others: pure.

A handler that holds the interpreter lock in C keeps every thread of its process from running, also the one that tells
Postgres that the worker lives. The others would take the living for dead, and run its jobs a second time.

Children are named by their slots. Times are seconds on any clock that only goes forward.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

STARVED = 1.25
"""Heartbeats after the last one that arrived when somebody else has to send one for a child that cannot."""
SILENT = 0.5
"""Heartbeats without a pulse that mean that no thread of a child gets to run."""
BETWEEN = 0.25
"""Heartbeats between two looks, and before a renewal that failed is tried again."""
LATE = 1.5
"""Heartbeats after which a child that could have sent one is not well."""
SILENCED = 2.5
"""Heartbeats without one that arrived after which a child whose threads run may be stuck: others take it for dead."""
DOUBT = 3.0
"""Heartbeats that such a child has to get over it, all the time with a Postgres that others reach."""
LEAST_DOUBT = 10.0
"""Seconds that it has in any case: it may have lost its connection, and connects again."""
GRACES = 2.0
"""How many graces after the moment at which a child should have stopped a handler it is killed."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What a child shows."""

    pulse: float
    """When a thread of it ran that does nothing but say so."""
    beaten: float | None = None
    """When the last of its own heartbeats was sent that arrived; None unless it is registered."""
    enforce_at: float = math.inf
    """When it has to stop a handler, at the earliest."""
    stopped: bool = False
    """Whether it is suspended: somebody wants it not to run, and its jobs have to go on elsewhere."""


@dataclass(frozen=True, slots=True)
class Look:
    """What to do now."""

    renew: tuple[int, ...] = ()
    """Children for which to send a heartbeat, all at once."""
    kill: tuple[int, ...] = ()
    """Children that cannot stop a handler whose time is up."""
    starving: tuple[int, ...] = ()
    """Those of `renew` that could beat by themselves until now."""
    speaking: tuple[int, ...] = ()
    """Children that beat by themselves again."""
    mute: tuple[int, ...] = ()
    """Children to kill, too: their threads run, Postgres is there, and no heartbeat of theirs arrives."""
    probe: bool = False
    """Whether to find out if Postgres is there."""


class ChildLiveness:
    """Decide for which children the parent sends heartbeats, and which of them to kill."""

    def __init__(self, slots: int, heartbeat: float, grace: float) -> None:
        self._heartbeat = heartbeat
        self._grace = grace
        self._awake: dict[int, float] = {}
        """Since when a child of this slot has been watched, without a gap in which it could not have shown a pulse."""
        self._renewed: dict[int, float] = {}
        self._starving: set[int] = set()
        self._killed: set[int] = set()
        self._doubted: dict[int, float] = {}
        """Since when a child of this slot has been silent though Postgres was there."""
        self._proved = -math.inf
        """When Postgres was there, as far as we know."""
        self._renewing: tuple[frozenset[int], float] | None = None
        self._not_before = -math.inf
        self._looked: float | None = None
        self._well: dict[int, float] = dict.fromkeys(range(slots), -math.inf)
        """When each slot had a child that was registered and heard of."""

    @property
    def between(self) -> float:
        """Seconds between two looks."""
        return min(BETWEEN * self._heartbeat, self._grace / 4)

    # Events -----------------------------------------------------------------------

    def started(self, slot: int, now: float) -> None:
        """A slot was filled."""
        self._forget(slot)
        self._awake[slot] = now

    def ended(self, slot: int, *, for_good: bool) -> None:
        """The child of a slot is gone; *for_good*: there will be no other."""
        self._forget(slot)
        if for_good:
            self._well.pop(slot, None)

    def _forget(self, slot: int) -> None:
        self._awake.pop(slot, None)
        self._renewed.pop(slot, None)
        self._starving.discard(slot)
        self._killed.discard(slot)
        _ = self._doubted.pop(slot, None)
        if self._renewing is not None:
            self._renewing = (self._renewing[0] - {slot}, self._renewing[1])

    def renewing(self, slots: tuple[int, ...], now: float) -> None:
        """Heartbeats are being sent for these; for none, it is a probe."""
        self._renewing = (frozenset(slots), now)

    def renewed(self, now: float, *, arrived: bool) -> None:
        """Sending them is over."""
        if self._renewing is None:
            return
        slots, sent = self._renewing
        self._renewing = None
        if arrived:
            self._renewed.update(dict.fromkeys(slots, sent))
            self._proved = max(self._proved, sent)
        else:
            self._doubted.clear()
            self._not_before = now + BETWEEN * self._heartbeat

    # Looks ------------------------------------------------------------------------

    def look(self, children: Mapping[int, Signs], now: float) -> Look:
        """Say what to do, given the signs of the children by slot."""
        if self._looked is not None and now - self._looked > 4 * self.between:
            # We did not run ourselves: what they did meanwhile is not known.
            self._awake = dict.fromkeys(self._awake, now)
        self._looked = now
        starved: list[int] = []
        for slot, signs in children.items():
            if signs.stopped:
                self._awake[slot] = now
            if signs.beaten is None:
                continue
            heard = self._heard(slot, signs.beaten)
            if now - heard <= LATE * self._heartbeat:
                self._well[slot] = now
            if now - heard >= STARVED * self._heartbeat and self._silence(slot, signs, now) >= SILENT * self._heartbeat:
                starved.append(slot)
        speaking = tuple(s for s in sorted(self._starving) if s in children and self._speaks(s, children[s]))
        self._starving.difference_update(speaking)
        kill = tuple(slot for slot, signs in children.items() if self._overdue(slot, signs, now))
        self._killed.update(kill)
        starved = [slot for slot in starved if slot not in self._killed]
        mute, probe = self._mute(children, now)
        free = self._renewing is None and now >= self._not_before
        if not starved or not free:
            return Look((), kill, (), speaking, mute, probe and free)
        starving = tuple(slot for slot in starved if slot not in self._starving)
        self._starving.update(starving)
        return Look(tuple(starved), kill, starving, speaking, mute)

    def _mute(self, children: Mapping[int, Signs], now: float) -> tuple[tuple[int, ...], bool]:
        """Find the children to give up because they do not beat, and whether that takes a look at Postgres."""
        silent: list[int] = []
        for slot, signs in children.items():
            if signs.beaten is None:
                continue
            heard = self._heard(slot, signs.beaten)
            self._proved = max(self._proved, heard)
            if now - heard <= SILENCED * self._heartbeat or slot in self._killed or signs.stopped:
                continue
            if self._silence(slot, signs, now) < SILENT * self._heartbeat:
                silent.append(slot)
        if not silent:
            self._doubted.clear()
            return (), False
        self._doubted = {slot: since for slot, since in self._doubted.items() if slot in silent}
        if now - self._proved > LATE * self._heartbeat:
            return (), True
        patience = max(DOUBT * self._heartbeat, LEAST_DOUBT)
        mute = tuple(slot for slot in silent if now - self._doubted.setdefault(slot, now) >= patience)
        self._killed.update(mute)
        return mute, False

    def wait(self, now: float) -> float:
        """Seconds until the next look."""
        return 0.0 if self._looked is None else max(0.0, self._looked + self.between - now)

    def _heard(self, slot: int, beaten: float) -> float:
        return max(beaten, self._renewed.get(slot, -math.inf))

    def _silence(self, slot: int, signs: Signs, now: float) -> float:
        return now - max(signs.pulse, self._awake.get(slot, now))

    def _speaks(self, slot: int, signs: Signs) -> bool:
        return signs.beaten is not None and signs.beaten > self._renewed.get(slot, math.inf)

    def _overdue(self, slot: int, signs: Signs, now: float) -> bool:
        if signs.stopped or slot in self._killed:
            return False
        # One whose threads run, and that is late, waits for Postgres: it will stop the handler itself.
        late = now > signs.enforce_at + GRACES * self._grace
        return late and self._silence(slot, signs, now) >= self._grace

    # Health -----------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether every slot has had a child that was heard of."""
        return all(at > -math.inf for at in self._well.values())

    def well(self, now: float) -> bool:
        """Whether every slot has a child that is heard of, or had one a heartbeat ago."""
        return all(now - at <= self._heartbeat + self.between for at in self._well.values())
