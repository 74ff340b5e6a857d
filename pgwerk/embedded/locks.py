"""File locks that the kernel gives back when their owner dies, however it dies."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pgwerk.errors import WerkError


def attempt(path: Path) -> int | None:
    """Take the exclusive lock and return its descriptor, or None when anybody holds it."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def release(descriptor: int) -> None:
    """Give a lock back; also in children that were forked meanwhile and have the descriptor too."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def is_held(path: Path) -> bool:
    """Say whether anybody holds the lock, shared or exclusively."""
    descriptor = attempt(path)
    if descriptor is None:
        return True
    release(descriptor)
    return False


def share(path: Path) -> int:
    """Take the shared lock and return its descriptor; to be kept for the life of the process."""
    descriptor = _open(path)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


@contextlib.contextmanager
def exclusive(path: Path, timeout: float) -> Iterator[None]:
    """Hold the exclusive lock for a block, waiting at most `timeout` seconds for it."""
    deadline = time.monotonic() + timeout
    while (descriptor := attempt(path)) is None:
        if time.monotonic() > deadline:
            raise WerkError(f"Another process has held {path} for {timeout:.0f} s.")
        time.sleep(0.02)
    try:
        yield
    finally:
        release(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
