"""The commands that the benchmark gives to a program, which runs in its peer's environment.

This file and those beside it import the peer and the standard library, nothing of the benchmark. A program says what
its peer does by the methods of `Program`; they may be plain or `async def`, all of them the same way.

    PROGRAM setup | single N | fill N | ring N | work drain | work wait

`single`, `fill` and `ring` print JSON. BENCH_URL names the Postgres or Redis, BENCH_TALLY the file of `tally`.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Generator
from typing import Any

WARM_UP = 20
RING_WARM_UP = 5
PAUSE = 0.06
"""Seconds between two rings: long enough for the worker to be idle again."""
PATIENCE = 20.0
RING_SECONDS = 20.0
"""Slow peers are rung fewer times."""

Steps = Generator[Any, None, Any]
"""Yields the result of each call, which is awaited if the program is `async`: one timing for both kinds."""


class Program:
    """What a peer can do."""

    url = os.environ["BENCH_URL"]
    enqueue_many: Any = None
    """Takes a count; None when the peer has no such call."""

    def open(self) -> Any:
        """Connect a producer, on one connection."""

    def close(self) -> Any:
        """Disconnect it."""

    def setup(self) -> Any:
        """Make tables or queues."""

    def enqueue(self, number: int) -> Any:
        """Enqueue one job, durably as far as the peer can."""
        raise NotImplementedError

    def ring(self, number: int) -> Any:
        """Enqueue one job for an idle worker."""
        return self.enqueue(number)

    def work(self, mode: str) -> Any:
        """Work until terminated; *mode* is drain or wait, should it matter to the peer."""
        raise NotImplementedError


def main(program: Program) -> None:
    command, *arguments = sys.argv[1:]
    steps: Steps = {"setup": _setup, "single": _single, "fill": _fill, "ring": _ring, "work": _work}[command](
        program, *arguments
    )
    asynchronous = asyncio.iscoroutinefunction(program.enqueue)
    result = asyncio.run(_drive_async(steps)) if asynchronous else _drive(steps)
    if result is not None:
        print(json.dumps(result))


def _drive(steps: Steps) -> Any:
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return stop.value


async def _drive_async(steps: Steps) -> Any:
    try:
        while True:
            call = next(steps)
            if call is not None:
                await call
    except StopIteration as stop:
        return stop.value


def _setup(program: Program) -> Steps:
    yield program.setup()


def _work(program: Program, mode: str) -> Steps:
    yield program.work(mode)


def _single(program: Program, count: str) -> Steps:
    yield program.open()
    for number in range(WARM_UP):
        yield program.enqueue(number)
    before = time.perf_counter()
    for number in range(int(count)):
        yield program.enqueue(number)
    spent = time.perf_counter() - before
    yield program.close()
    return {"rate": int(count) / spent}


def _fill(program: Program, count: str) -> Steps:
    yield program.open()
    before = time.perf_counter()
    if program.enqueue_many is None:
        for number in range(int(count)):
            yield program.enqueue(number)
    else:
        yield program.enqueue_many(int(count))
    spent = time.perf_counter() - before
    yield program.close()
    return {"rate": int(count) / spent, "bulk": program.enqueue_many is not None}


def _ring(program: Program, count: str) -> Steps:
    """Milliseconds from before the enqueue to the start of the handler."""
    tally = os.open(os.environ["BENCH_TALLY"], os.O_RDONLY)
    found = []
    yield program.open()
    started = time.monotonic()
    for number in range(RING_WARM_UP + int(count)):
        time.sleep(PAUSE)
        size = os.fstat(tally).st_size
        before = time.monotonic_ns()
        yield program.ring(number)
        until = time.monotonic() + PATIENCE
        while os.fstat(tally).st_size == size:
            if time.monotonic() > until:
                raise TimeoutError(f"no handler started in {PATIENCE:g} seconds")
            time.sleep(0.0005)
        if number >= RING_WARM_UP:  # the first ones start, connect and prepare
            found.append((int.from_bytes(os.pread(tally, 8, size), "little") - before) / 1e6)
        if time.monotonic() > started + RING_SECONDS:
            break
    yield program.close()
    return {"milliseconds": found}
