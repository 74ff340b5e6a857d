"""What a prefork parent does next: pure, like the agenda of a worker.

It is told of children that were started and that ended, of requests to stop and to restart, and answers how many
children to start, which to signal, and how long to wait.

A slot is

    empty     nobody is in it; it is filled after its pause   -> taken (`spawned`), empty (`not_spawned`)
    taken     one child is in it                              -> empty, or done in a burst (`exited`)
    done      its burst is over; it is never filled again

and a child in it is

    working   it was told nothing                             -> stopping (`stop`, `recycle`, a rolling restart)
    stopping  it is to drain; after a second `stop`, to       -> killed (its shutdown timeout and KILL_GRACE are over)
              give back
    killed    it was sent SIGKILL

from each of which it may end (`exited`). What always holds:

- a slot has one child at most, and no child goes from stopping back to working;
- each child is told each thing once, in the order STOP, GIVE_BACK, KILL;
- once it was asked to stop, no slot is filled, and a child that was just being started is stopping from the start;
- a rolling restart stops one child at a time, and only while all the others work;
- the pause of a slot is 0 after an end that was asked for or clean, and grows with each early death in a row.
"""

import math
from dataclasses import dataclass
from enum import Enum

from pgwerk._core import backoff

SHORT_LIFE = 5.0
"""A child that ends in error sooner than this (seconds) counts as crash-looping."""
KILL_GRACE = 10.0
"""Seconds beyond the children's own shutdown timeout after which they are killed."""


class Command(Enum):
    """What to tell a child."""

    STOP = "stop"
    """Drain and end."""
    GIVE_BACK = "give back"
    """Give the jobs back and end."""
    KILL = "kill"


@dataclass(slots=True)
class ChildState:
    """A child process, as far as the parent knows."""

    pid: int
    slot: int
    started: float
    stopping_since: float | None = None
    told: int = 0
    """How much it was told: nothing, to stop, to give back."""
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now."""

    spawn: tuple[int, ...] = ()
    """Slots to fill with a new child each."""
    commands: tuple[tuple[int, Command], ...] = ()
    """(pid, what to tell it)."""
    wait: float = math.inf
    finished: bool = False


class Supervision:
    """Decide what a prefork parent does next."""

    def __init__(self, processes: int, shutdown: float, *, burst: bool = False) -> None:
        self._processes = processes
        self._shutdown = shutdown
        self._burst = burst
        self._children: dict[int, ChildState] = {}
        self._not_before: dict[int, float] = dict.fromkeys(range(processes), -math.inf)
        """By slot: when it may be filled."""
        self._failures: dict[int, int] = dict.fromkeys(range(processes), 0)
        self._done: set[int] = set()
        """Slots whose burst is over."""
        self._stops = 0
        self._restarting: list[int] = []
        """Pids that a rolling restart has yet to replace."""

    @property
    def children(self) -> list[ChildState]:
        """The living children."""
        return list(self._children.values())

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stops > 0

    # Events -----------------------------------------------------------------------

    def spawned(self, slot: int, pid: int, now: float) -> None:
        """A child was started."""
        # One that was being started when the stop was asked for stops, too.
        self._children[pid] = ChildState(pid, slot, now, stopping_since=now if self._stops else None)

    def not_spawned(self, slot: int, now: float) -> float:
        """A child could not be started; returns how long (seconds) its slot stays empty."""
        self._failures[slot] += 1
        pause = backoff.exponential(self._failures[slot], base=0.1, cap=30.0)
        self._not_before[slot] = now + pause
        return pause

    def exited(self, pid: int, now: float, *, clean: bool) -> float | None:
        """A child ended; returns how long (seconds) its slot stays empty, None when it is not filled again."""
        child = self._children.pop(pid, None)
        if child is None:
            return None
        if pid in self._restarting:
            self._restarting.remove(pid)
        if self._stops:
            return None
        if clean and self._burst:
            self._done.add(child.slot)
            return None
        asked = child.stopping_since is not None
        if clean or asked or now - child.started >= SHORT_LIFE:
            self._failures[child.slot] = 0 if clean or asked else 1
            pause = 0.0
        else:
            self._failures[child.slot] += 1
            pause = backoff.exponential(self._failures[child.slot], base=0.1, cap=30.0)
        self._not_before[child.slot] = now + pause
        return pause

    def stop(self, now: float) -> None:
        """Stop all children: first time drain, second time give back."""
        self._stops += 1
        if self._stops == 1:
            self._restarting = []
        for child in self._children.values():
            if child.stopping_since is None:
                child.stopping_since = now

    def restart(self) -> None:
        """Replace every child, one after the other."""
        if not self._stops:
            self._restarting = [child.pid for child in self._children.values()]

    def recycle(self, pid: int, now: float) -> bool:
        """One child should be replaced; False when it is on its way out already."""
        child = self._children.get(pid)
        if child is None or child.stopping_since is not None:
            return False
        child.stopping_since = now
        return True

    # Plan -------------------------------------------------------------------------

    def plan(self, now: float) -> Plan:
        """Say what to do now."""
        commands = tuple(self._commands(now))
        if self._stops or len(self._done) == self._processes:
            return Plan((), commands, self._wait(now), finished=not self._children)
        filled = {child.slot for child in self._children.values()} | self._done
        empty = [slot for slot in range(self._processes) if slot not in filled]
        spawn = tuple(slot for slot in empty if self._not_before[slot] <= now)
        return Plan(spawn, commands, 0.0 if spawn else self._wait(now))

    def _commands(self, now: float) -> list[tuple[int, Command]]:
        self._restart_next(now)
        commands: list[tuple[int, Command]] = []
        for child in self._children.values():
            if child.stopping_since is None or child.killed:
                continue
            if now >= child.stopping_since + self._shutdown + KILL_GRACE:
                child.killed = True
                commands.append((child.pid, Command.KILL))
                continue
            wanted = 2 if self._stops > 1 else 1
            commands += [(child.pid, command) for command in (Command.STOP, Command.GIVE_BACK)[child.told : wanted]]
            child.told = max(child.told, wanted)
        return commands

    def _restart_next(self, now: float) -> None:
        """In a rolling restart: stop the next child once all the others work."""
        if not self._restarting or len(self._children) < self._processes:
            return
        if any(child.stopping_since is not None for child in self._children.values()):
            return
        child = self._children.get(self._restarting[0])
        if child is not None:
            child.stopping_since = now

    def _wait(self, now: float) -> float:
        moments = [
            child.stopping_since + self._shutdown + KILL_GRACE
            for child in self._children.values()
            if child.stopping_since is not None and not child.killed
        ]
        if not self._stops:
            filled = {child.slot for child in self._children.values()} | self._done
            moments += [at for slot, at in self._not_before.items() if slot not in filled]
        return max(0.0, min(moments, default=math.inf) - now)
