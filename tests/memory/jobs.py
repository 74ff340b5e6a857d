"""Handlers, which leave in memory what they did."""

import threading
import time

from pgwerk import Context

seen: list[str] = []
started = threading.Event()


def add(a: int, b: int) -> int:
    return a + b


def note(text: str) -> None:
    seen.append(text)


def fail() -> None:
    raise ValueError("no")


def failed(ctx: Context) -> None:
    seen.append("failed")


def wait() -> None:
    started.set()
    while True:
        time.sleep(0.01)


def slowness() -> float:
    """How many times slower than usual this machine is now."""
    began = time.process_time()
    _ = sum(range(2_000_000))
    return (time.process_time() - began) / 0.03
