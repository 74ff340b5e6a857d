"""Signals in processes that handlers fork: ordinary ones, which their maker can terminate.

Such a process would have the worker's signal handlers. Signals get back the meaning that they had before there was a
worker, also one that comes at once: the interpreter would drop it.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

HELD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Held back while a process is forked."""

_before: dict[int, Any] = {}
"""What signals that a worker handles meant before."""
_local = threading.local()


def handled(before: Mapping[int, Any]) -> None:
    """Take note that a worker handles these signals, and what they meant before."""
    for number, meaning in before.items():
        _ = _before.setdefault(number, meaning)


def not_handled(numbers: Mapping[int, Any]) -> None:
    """Take note that a worker does not handle these any more."""
    for number in numbers:
        _ = _before.pop(number, None)


@contextlib.contextmanager
def our_own() -> Iterator[None]:
    """What is forked in this block is a process of the worker's, which sees to its signals itself."""
    _local.ours = True
    try:
        yield
    finally:
        _local.ours = False


def fork() -> int:
    """Fork a process of the worker's own."""
    with our_own():
        return os.fork()


def _hold() -> None:
    if _before and not getattr(_local, "ours", False):
        _local.mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)


def _release() -> None:
    mask = _local.__dict__.pop("mask", None)
    if mask is not None:
        _ = signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    if _before and not getattr(_local, "ours", False):
        with contextlib.suppress(ValueError):  # not the main interpreter
            _ = signal.set_wakeup_fd(-1)
            for number, meaning in _before.items():
                if callable(signal.getsignal(number)):
                    _ = signal.signal(number, signal.SIG_DFL if meaning is None else meaning)
        _before.clear()
    _release()


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_in_child)


def ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing at a signal. Not SIG_IGN, which programs that a handler starts would inherit."""
