"""From `enqueue` to the start of the handler on an idle worker, beside a bare LISTEN/NOTIFY round trip and a claim.

Both are processes of their own that run all the while; the samples alternate. A handler says when it started through
a pipe, on the monotonic clock that all processes of a machine share.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import quantiles

from benchmarks.installation import Installation
from benchmarks.jobs import ring
from benchmarks.table import Figure

PAUSE = 0.06
"""Seconds between samples: long enough for the worker to be idle again, and past its first look without being told."""
PATIENCE = 30.0


def measure(dsn: str, count: int) -> list[Figure]:
    with contextlib.ExitStack() as stack:
        at, bare = stack.enter_context(Installation(dsn)), stack.enter_context(Installation(dsn))
        bell = stack.enter_context(_bell())
        stack.enter_context(_process("benchmarks.worker", at.spec(kind="ThreadWorker", burst=False)))
        stack.enter_context(_process("benchmarks.raw_listener", bare.spec()))
        insert = f"""with new as (insert into {bare.jobs} (function, payload) values ('ring', %s::jsonb) returning id)
                     select pg_notify('{bare.schema}', id::text) from new"""

        def ours() -> None:
            _ = at.werk.enqueue(ring, bell.path)

        def raw() -> None:
            _ = bare.execute(insert, [json.dumps({"args": [bell.path]})])

        samples: dict[Callable[[], None], list[float]] = {ours: [], raw: []}
        for number in range(count + 5):
            for call, found in samples.items():
                milliseconds = bell.time(call)
                time.sleep(PAUSE)
                if number >= 5:  # the first ones start, connect and prepare
                    found.append(milliseconds)
    figures = []
    for percent in (50, 99):
        mine, theirs = (quantiles(found, n=100, method="inclusive")[percent - 1] for found in samples.values())
        figures.append(Figure(f"enqueue to handler, idle worker, p{percent}", mine, theirs, unit=" ms"))
    return figures


class _Bell:
    """A named pipe that handlers write their start to."""

    def __init__(self, path: str, reader: int) -> None:
        self.path = path
        self._reader = reader

    def time(self, call: Callable[[], None]) -> float:
        """Milliseconds from before *call* to the start of its handler."""
        before = time.monotonic_ns()
        call()
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                return (int.from_bytes(os.read(self._reader, 8), "big") - before) / 1e6
            time.sleep(0.0005)
        raise TimeoutError("no handler started")


@contextlib.contextmanager
def _bell() -> Iterator[_Bell]:
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "bell")
        os.mkfifo(path)
        # Both ends, so that neither opening nor writing ever waits.
        reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        try:
            yield _Bell(path, reader)
        finally:
            os.close(reader)


@contextlib.contextmanager
def _process(module: str, spec: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", module, spec])
    try:
        yield
    finally:
        process.terminate()
        _ = process.wait(PATIENCE)
