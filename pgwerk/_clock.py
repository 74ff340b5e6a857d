"""Ids and times of this process: what the core must be handed."""

import os
import threading
import time
from datetime import UTC, datetime

from pgwerk._core.ids import uuid7

_lock = threading.Lock()
_last = 0


def new_id() -> str:
    """Make a UUIDv7; within a process they ascend strictly."""
    global _last  # noqa: PLW0603  # one sequence a process is what makes them ascend
    with _lock:
        # Steps of 1/4096 ms, as finely as the 12 bits beside the milliseconds can order.
        _last = max(_last + 1, time.time_ns() * 4096 // 1_000_000)
        milliseconds, fraction = divmod(_last, 4096)
    return uuid7(milliseconds, fraction, int.from_bytes(os.urandom(8)))


def utcnow() -> datetime:
    """The time, aware."""
    return datetime.now(UTC)


def _fresh_lock() -> None:
    global _lock  # noqa: PLW0603  # a lock held by another thread at fork would stay locked in the child
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_fresh_lock)
