"""Ids and times of this process: what the core must be handed."""

import os
import struct
import threading
import time

from pgwerk._core.ids import uuid7

# One that its holder may take again: a signal handler or a finaliser that enqueues may interrupt us inside.
_lock = threading.RLock()
_last = 0


def new_id() -> str:
    """Make a UUIDv7; within a process they ascend strictly."""
    global _last  # noqa: PLW0603  # one sequence a process is what makes them ascend
    with _lock:
        while True:
            before = _last
            # Steps of 1/4096 ms, as finely as the 12 bits beside the milliseconds can order.
            mine = max(before + 1, time.time_ns() * 4096 // 1_000_000)
            # Nothing is called between this look and the assignment, so nothing of this thread's comes in between.
            if _last == before:
                _last = mine
                break
    milliseconds, fraction = divmod(mine, 4096)
    return uuid7(milliseconds, fraction, _draw())


_draws: list[int] = []
"""Random numbers of 64 bits that were not used yet: the kernel is asked for many at once."""


def _draw() -> int:
    try:
        # In one step, whatever thread or signal handler comes in between.
        return _draws.pop()
    except IndexError:
        _draws.extend(struct.unpack("=64Q", os.urandom(512)))
        return int.from_bytes(os.urandom(8))


def _fresh_lock() -> None:
    global _lock  # noqa: PLW0603  # a lock held by another thread at fork would stay locked in the child
    _lock = threading.RLock()
    # The parent goes on with these.
    _draws.clear()


os.register_at_fork(after_in_child=_fresh_lock)
