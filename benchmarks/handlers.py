"""What the jobs of the scenarios run; each plain function has a coroutine that does the same."""

import asyncio
import random
import time

BURN = 0.005
"""Seconds of CPU that a `burn` takes."""


def nothing(_number: int = 0) -> None:
    """Take an argument, as jobs do."""


async def nothing_async(_number: int = 0) -> None:
    """Take an argument, as jobs do."""


def sleep_1ms(_number: int = 0) -> None:
    """Wait, as for a quick query."""
    time.sleep(0.001)


async def sleep_1ms_async(_number: int = 0) -> None:
    """Wait, as for a quick query."""
    await asyncio.sleep(0.001)


def burn(_number: int = 0) -> int:
    """Use the CPU, and by the thread's own clock: what others take meanwhile does not count."""
    until = time.thread_time() + BURN
    turns = 0
    while time.thread_time() < until:
        turns += sum(range(200))
    return turns


async def burn_async(_number: int = 0) -> int:
    """Use the CPU of the loop's thread."""
    return burn()


def pause(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def produce(seconds: float, words: int) -> dict[str, list[int]]:
    """Wait, and return something to store."""
    time.sleep(seconds)
    return {"words": list(range(words))}


def stumble(seconds: float, share: float) -> str:
    """Wait, and fail now and then: the same job may do better the next time."""
    time.sleep(seconds)
    if random.random() < share:
        raise RuntimeError("stumbled")
    return "up again"
