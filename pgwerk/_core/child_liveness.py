"""Which children of a prefork parent still show that they live, and what to do about the others: pure.

A handler that holds the interpreter lock in C keeps every thread of its process from running, also the one that tells
Postgres that the worker lives. The others would take the living for dead, and run its jobs a second time.

Children are named by their slots. Times are seconds on any clock that only goes forward. Each look sees a child anew:

    state     its last heartbeat that arrived     its threads     what the parent does
    NEW       none: it is not registered          -               nothing
    WELL      within LATE                         -               nothing
    LATE      before that                         -               nothing yet
    STARVED   before STARVED                      do not run      sends heartbeats for it, until it beats by itself
    SILENT    before SILENCED                     run             sees whether Postgres is there; in DOUBT since then
    KILLED    -                                   -               nothing more; the slot is filled again

A child becomes KILLED from any state when it has not stopped a handler in time and its threads do not run, and from
SILENT when it has been in doubt for long enough, all the time with a Postgres that others reach.

Invariants: no child is killed twice, nor for a time in which the parent did not run itself or the child was suspended;
one round of heartbeats is under way at most; none is sent for a child whose threads run.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

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


class State(Enum):
    """What a child was seen to be at the last look."""

    NEW = auto()
    WELL = auto()
    LATE = auto()
    STARVED = auto()
    SILENT = auto()
    KILLED = auto()


@dataclass(slots=True)
class Slot:
    """What is known of the child of one slot."""

    number: int
    well: float = -math.inf
    """When the slot last had a child that was registered and heard of."""
    state: State = State.NEW
    watched: float | None = None
    """Since when the child has been watched, without a gap in which it could not have shown a pulse."""
    renewed: float | None = None
    """When the last heartbeat that arrived was sent for it."""
    heard: float = -math.inf
    """When the last heartbeat that arrived was sent, by it or for it."""
    silence: float = 0.0
    """For how long none of its threads has run."""
    starving: bool = False
    """Whether heartbeats were sent for it, and it has sent none since."""
    doubted: float | None = None
    """Since when it has been silent though Postgres was there."""

    def see(self, signs: Signs, now: float, heartbeat: float) -> None:
        """Take note of its signs."""
        if signs.stopped:
            self.watched = now
        self.silence = now - max(signs.pulse, now if self.watched is None else self.watched)
        if signs.beaten is not None:
            self.heard = signs.beaten if self.renewed is None else max(signs.beaten, self.renewed)
            if now - self.heard <= LATE * heartbeat:
                self.well = now
        if self.state is not State.KILLED:
            self.state = self._judged(signs, now, heartbeat)

    def _judged(self, signs: Signs, now: float, heartbeat: float) -> State:
        if signs.beaten is None:
            return State.NEW
        age, runs = now - self.heard, self.silence < SILENT * heartbeat
        if age >= STARVED * heartbeat and not runs:
            return State.STARVED
        if age > SILENCED * heartbeat and not signs.stopped:
            return State.SILENT
        return State.WELL if age <= LATE * heartbeat else State.LATE

    def speaks_again(self, signs: Signs) -> bool:
        """Whether it beats by itself after heartbeats were sent for it; true once."""
        speaks = signs.beaten is not None and self.renewed is not None and signs.beaten > self.renewed
        again, self.starving = self.starving and speaks, self.starving and not speaks
        return again

    def cannot_stop_a_handler(self, signs: Signs, now: float, grace: float) -> bool:
        """Whether a handler's time is up and no thread of the child can stop it."""
        if signs.stopped or self.state is State.KILLED:
            return False
        # One whose threads run, and that is late, waits for Postgres: it stops the handler itself.
        return now > signs.enforce_at + GRACES * grace and self.silence >= grace


class ChildLiveness:
    """Decide for which children the parent sends heartbeats, and which of them to kill."""

    def __init__(self, slots: int, heartbeat: float, grace: float) -> None:
        self._heartbeat = heartbeat
        self._grace = grace
        self._slots = {number: Slot(number) for number in range(slots)}
        self._proved = -math.inf
        """When Postgres was there, as far as we know."""
        self._renewing: tuple[frozenset[int], float] | None = None
        """For which slots heartbeats are under way, and since when."""
        self._not_before = -math.inf
        """When the next may be sent after some that did not arrive."""
        self._looked: float | None = None

    @property
    def between(self) -> float:
        """Seconds between two looks."""
        return min(BETWEEN * self._heartbeat, self._grace / 4)

    # Events -----------------------------------------------------------------------

    def started(self, slot: int, now: float) -> None:
        """A slot was filled."""
        self._empty(slot).watched = now

    def ended(self, slot: int, *, for_good: bool) -> None:
        """The child of a slot is gone; *for_good*: there will be no other."""
        _ = self._empty(slot)
        if for_good:
            _ = self._slots.pop(slot, None)

    def _empty(self, slot: int) -> Slot:
        """Forget the child of a slot."""
        before = self._slots.get(slot)
        empty = self._slots[slot] = Slot(slot, -math.inf if before is None else before.well)
        if self._renewing is not None:
            self._renewing = (self._renewing[0] - {slot}, self._renewing[1])
        return empty

    def renewing(self, slots: tuple[int, ...], now: float) -> None:
        """Heartbeats are being sent for these; for none, it is a probe."""
        self._renewing = (frozenset(slots), now)

    def renewed(self, now: float, *, arrived: bool) -> None:
        """Sending them is over."""
        if self._renewing is None:
            return
        numbers, sent = self._renewing
        self._renewing = None
        if arrived:
            self._proved = max(self._proved, sent)
            for number in numbers & self._slots.keys():
                self._slots[number].renewed = sent
        else:
            self._not_before = now + BETWEEN * self._heartbeat
            for slot in self._slots.values():
                slot.doubted = None

    # Looks ------------------------------------------------------------------------

    def look(self, children: Mapping[int, Signs], now: float) -> Look:
        """Say what to do, given the signs of the children by slot."""
        self._take_note_of_a_gap(now)
        speaking: list[int] = []
        kill: list[int] = []
        starved: list[Slot] = []
        silent: list[Slot] = []
        for number, signs in children.items():
            slot = self._slots.setdefault(number, Slot(number))
            slot.see(signs, now, self._heartbeat)
            if signs.beaten is not None:
                self._proved = max(self._proved, slot.heard)
            if slot.speaks_again(signs):
                speaking.append(number)
            if slot.cannot_stop_a_handler(signs, now, self._grace):
                slot.state = State.KILLED
                kill.append(number)
            starved += [slot] if slot.state is State.STARVED else []
            silent += [slot] if slot.state is State.SILENT else []
        mute, probe = self._mute(silent, now)
        free = self._renewing is None and now >= self._not_before
        if not starved or not free:
            return Look((), tuple(kill), (), tuple(sorted(speaking)), mute, probe and free)
        starving = tuple(slot.number for slot in starved if not slot.starving)
        for slot in starved:
            slot.starving = True
        return Look(tuple(slot.number for slot in starved), tuple(kill), starving, tuple(sorted(speaking)), mute)

    def _take_note_of_a_gap(self, now: float) -> None:
        if self._looked is not None and now - self._looked > 4 * self.between:
            # We did not run ourselves: what they did meanwhile is not known.
            for slot in self._slots.values():
                slot.watched = None if slot.watched is None else now
        self._looked = now

    def _mute(self, silent: list[Slot], now: float) -> tuple[tuple[int, ...], bool]:
        """Find the children to give up because they do not beat, and whether that takes a look at Postgres."""
        for slot in self._slots.values():
            if slot not in silent:
                slot.doubted = None
        if not silent:
            return (), False
        if now - self._proved > LATE * self._heartbeat:
            return (), True
        patience = max(DOUBT * self._heartbeat, LEAST_DOUBT)
        mute: list[int] = []
        for slot in silent:
            slot.doubted = now if slot.doubted is None else slot.doubted
            if now - slot.doubted >= patience:
                slot.state = State.KILLED
                mute.append(slot.number)
        return tuple(mute), False

    def wait(self, now: float) -> float:
        """Seconds until the next look."""
        return 0.0 if self._looked is None else max(0.0, self._looked + self.between - now)

    # Health -----------------------------------------------------------------------

    @property
    def complete(self) -> bool:
        """Whether every slot has had a child that was heard of."""
        return all(slot.well > -math.inf for slot in self._slots.values())

    def well(self, now: float) -> bool:
        """Whether every slot has a child that is heard of, or had one a heartbeat ago."""
        return all(now - slot.well <= self._heartbeat + self.between for slot in self._slots.values())
