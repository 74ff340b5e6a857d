"""What belongs to an event loop: connections cannot leave the loop that they were opened on."""

import asyncio
import os
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Things(dict[asyncio.AbstractEventLoop, T]):
    """What belongs to the loops of one process."""

    ended = False
    """Nobody lets them go any more: the program ends, or their owner is gone."""


_inherited: list[object] = []
"""What belongs to a loop of a parent process: kept, because its end is the parent's business."""


class PerLoop(Generic[T]):
    """One thing for each loop that asks, made anew after a fork.

    *abandon* lets a thing go whose loop is closed, or whose owner is gone: nobody can await its end.
    """

    def __init__(self, abandon: Callable[[T], None]) -> None:
        self._abandon = abandon
        self._processes: dict[int, Things[T]] = {}
        """By process; there is one, unless we were forked."""

    @property
    def _things(self) -> Things[T]:
        pid = os.getpid()
        found = self._processes.get(pid)
        if found is None:
            # By setdefault, which is atomic: threads may meet here, each with its loop.
            made: Things[T] = Things()
            found = self._processes.setdefault(pid, made)
            if found is made:
                _ = weakref.finalize(self, _abandon_all, made, self._abandon, pid)
            _inherited.extend(self._processes.pop(other, None) for other in list(self._processes) if other != pid)
        return found

    def get(self) -> T | None:
        """The thing of the running loop, if it has one."""
        return self._things.get(asyncio.get_running_loop())

    def put(self, thing: T) -> T:
        """Keep *thing* for the running loop; those of closed loops are abandoned."""
        things = self._things
        for loop in [loop for loop in list(things) if loop.is_closed()]:
            gone = things.pop(loop, None)
            if gone is not None:
                self._abandon(gone)
        things[asyncio.get_running_loop()] = thing
        if things.ended:
            # In an exit handler that comes after us.
            self._abandon(thing)
        return thing

    def pop(self) -> T | None:
        """The thing of the running loop, which is the caller's from here on."""
        return self._things.pop(asyncio.get_running_loop(), None)


def _abandon_all(things: Things[T], abandon: Callable[[T], None], pid: int) -> None:
    if pid != os.getpid():
        _inherited.append(things)
        return
    things.ended = True
    while things:
        abandon(things.popitem()[1])
