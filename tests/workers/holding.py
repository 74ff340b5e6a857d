"""Handlers that hold the interpreter lock: no other thread of their process runs meanwhile."""

import ctypes
import re

from tests.workers.handlers import note

_libc = ctypes.PyDLL(None)


def hold(name: str, seconds: float) -> str:
    """Sleep in C without letting go of the lock."""
    note(f"start {name}")
    _ = _libc.usleep(ctypes.c_uint(int(seconds * 1_000_000)))
    note(f"end {name}")
    return name


def hold_at_once(name: str, seconds: float, ready: float = 0.0) -> str:
    """Hold it without a word before, so that nothing else got to run since the start."""
    _ = ready
    _ = _libc.usleep(ctypes.c_uint(int(seconds * 1_000_000)))
    note(f"end {name}")
    return name


def backtrack(name: str) -> None:
    """A regular expression that never ends, as users write them."""
    note(f"start {name}")
    _ = re.match(r"(a+)+$", "a" * 60 + "b")
