"""One contender's turn in a round: its rates and latencies on an empty store."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import psycopg

from benchmarks.peers.contenders import Contender
from benchmarks.peers.environments import PROGRAMS, Environment, last_line
from benchmarks.peers.stores import Store

COMMAND_SECONDS = 600
START_SECONDS = 60
STOP_SECONDS = 10
SETTLE_SECONDS = 30


class FailedError(Exception):
    """What went wrong, for the table's reader."""


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    jobs: int
    singles: int
    rings: int
    drain_seconds: float
    """A slower drain is cut short; its rate is that of the jobs that ended by then."""


@dataclass
class Result:
    """What one turn found."""

    rates: dict[str, float] = field(default_factory=dict)
    """Jobs per second by "single", "bulk" and "drain"; milliseconds by "p50" and "p99"."""
    notes: list[str] = field(default_factory=list)


class Turn:
    """A contender, its environment and a store that is empty."""

    def __init__(self, contender: Contender, environment: Environment, store: Store, directory: Path) -> None:
        self._contender = contender
        self._store = store
        self._tally = directory / "tally"
        self._log = directory / "log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        self._environ = (
            clean
            | environment.environ
            | contender.environ
            | {"BENCH_URL": store.url, "BENCH_TALLY": str(self._tally), "PYTHONDONTWRITEBYTECODE": "1"}
        )
        self._command = (environment.interpreter, str(PROGRAMS / contender.program))

    def enqueue_and_start(self, size: Size) -> Result:
        """Measure latencies and then single enqueues; nothing drains those."""
        return self._noting(self._enqueue_and_start, size)

    def fill_and_drain(self, size: Size) -> Result:
        """Measure the filling, where that is one call, and the draining."""
        return self._noting(self._fill_and_drain, size)

    def _noting(self, measure: Callable[[Size, Result], None], size: Size) -> Result:
        """What fails is a note, and ends the measurement."""
        result = Result()
        try:
            _ = self._tally.write_bytes(b"")
            self._ask("setup")
            measure(size, result)
        except (FailedError, OSError, ValueError, psycopg.Error, subprocess.SubprocessError) as error:
            result.notes.append(str(error).partition("\n")[0].strip())
        return result

    def _enqueue_and_start(self, size: Size, result: Result) -> None:
        cuts = quantiles(self._latencies(size.rings), n=100, method="inclusive")
        result.rates |= {"p50": cuts[49], "p99": cuts[98]}
        result.rates["single"] = self._ask("single", size.singles)["rate"]

    def _fill_and_drain(self, size: Size, result: Result) -> None:
        filled = self._ask("fill", size.jobs)
        if filled["bulk"] and not self._contender.drains_only:
            result.rates["bulk"] = filled["rate"]
        result.rates["drain"], cut = self._drain(size)
        if cut:
            result.notes.append(f"drain cut off after {size.drain_seconds:g} s")

    def _waiting(self) -> int:
        return self._store.count(self._contender.unfinished)

    def _latencies(self, count: int) -> list[float]:
        with self._workers("wait", 1):
            # It is listening when it has connected; the first rings, which do not count, wait for it.
            found: list[float] = self._ask("ring", count)["milliseconds"]
        if len(found) < 2:
            raise FailedError("too slow for latencies")
        return found

    def _drain(self, size: Size) -> tuple[float, bool]:
        """Run workers until all jobs are finished or time is up: their rate, and whether it was cut short."""
        jobs = size.jobs
        self._store.settle()
        with self._workers("drain", self._contender.copies) as workers:
            self._wait_for(1, START_SECONDS, workers)
            first = int.from_bytes(self._tally.read_bytes()[:8], "little")
            left = size.drain_seconds - (time.monotonic_ns() - first) / 1e9
            if not self._wait_for(jobs, left, workers):
                return self._started() / ((time.monotonic_ns() - first) / 1e9), True
            # All have started; the rate is that of jobs whose end has been written.
            until = time.monotonic() + SETTLE_SECONDS
            while waiting := self._waiting():
                if time.monotonic() > until:
                    raise FailedError(f"{waiting} of {jobs} jobs never finished")
                time.sleep(0.002)
            seconds = (time.monotonic_ns() - first) / 1e9
        if (started := self._started()) != jobs:
            raise FailedError(f"{started} starts of {jobs} jobs")
        return jobs / seconds, False

    def _started(self) -> int:
        return self._tally.stat().st_size // 8

    def _wait_for(self, jobs: int, seconds: float, workers: list[subprocess.Popen[bytes]]) -> bool:
        until = time.monotonic() + seconds
        while self._started() < jobs:
            if time.monotonic() > until:
                if self._started() == 0:
                    raise FailedError(f"no job started in {seconds:g} s: {self._complaint()}")
                return False
            if any(worker.poll() is not None for worker in workers) and self._started() < jobs:
                raise FailedError(f"the worker ended: {self._complaint()}")
            time.sleep(0.001)
        return True

    @contextlib.contextmanager
    def _workers(self, mode: str, copies: int) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Run worker processes, each in a session of its own, so that its children end with it."""
        with self._log.open("wb") as log:
            workers = [
                subprocess.Popen(
                    [*self._command, "work", mode],
                    env=self._environ,
                    cwd=PROGRAMS,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                for _ in range(copies)
            ]
            try:
                yield workers
            finally:
                for worker in workers:
                    _stop(worker)

    def _ask(self, command: str, count: int | None = None) -> Any:
        arguments = [command] if count is None else [command, str(count)]
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environ,
            cwd=PROGRAMS,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise FailedError(f"{command}: {last_line(done.stderr)}")
        return json.loads(done.stdout) if count is not None else None

    def _complaint(self) -> str:
        return last_line(self._log.read_text(errors="replace"))


def _stop(worker: subprocess.Popen[bytes]) -> None:
    """End a worker and whatever it has started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            _ = worker.wait(STOP_SECONDS)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-peers-") as directory:
        yield Path(directory)
