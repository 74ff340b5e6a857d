"""What belongs to an event loop: connections cannot leave the loop that they were opened on."""

import asyncio
import os
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

Things = dict[asyncio.AbstractEventLoop, T]

_inherited: list[object] = []
"""What belongs to a loop of a parent process: kept, because its end is the parent's business."""


class PerLoop(Generic[T]):
    """One thing for each loop that asks, made anew after a fork.

    *abandon* lets a thing go whose loop is closed, or whose owner is gone: nobody can await its end.
    """

    def __init__(self, abandon: Callable[[T], None]) -> None:
        self._abandon = abandon
        self._things: Things[T] = {}
        self._pid = os.getpid()
        _ = weakref.finalize(self, _abandon_all, self._things, abandon, self._pid)

    def get(self) -> T | None:
        """The thing of the running loop, if it has one."""
        if self._pid != os.getpid():
            _inherited.append(self._things)
            self._things, self._pid = {}, os.getpid()
            _ = weakref.finalize(self, _abandon_all, self._things, self._abandon, self._pid)
        return self._things.get(asyncio.get_running_loop())

    def put(self, thing: T) -> T:
        """Keep *thing* for the running loop; those of closed loops are abandoned."""
        for loop in [loop for loop in list(self._things) if loop.is_closed()]:
            gone = self._things.pop(loop, None)
            if gone is not None:
                self._abandon(gone)
        self._things[asyncio.get_running_loop()] = thing
        return thing

    def pop(self) -> T | None:
        """The thing of the running loop, which is the caller's from here on."""
        found = self.get()
        _ = self._things.pop(asyncio.get_running_loop(), None)
        return found


def _abandon_all(things: Things[T], abandon: Callable[[T], None], pid: int) -> None:
    if pid != os.getpid():
        _inherited.append(things)
        return
    while things:
        abandon(things.popitem()[1])
