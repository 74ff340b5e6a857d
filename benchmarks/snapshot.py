"""A long drain while another session holds an old snapshot, beside the same without: does it grow slower?"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import pairwise

import psycopg

from benchmarks.installation import Installation
from benchmarks.running import THREADS, drain, resume, worker
from benchmarks.scenario import Size, fill, markdown, room_for, say, settle_tables, target
from benchmarks.server_cost import cost

PARTS = 6
TARGET = 0.85
BYTES = 2500
"""Of disk for each job: three versions of its row, while nothing can be cleaned away."""
TITLES = {"rate": "jobs/s", "server_cpu": "server CPU µs/job", "worker_cpu": "worker CPU µs/job"}


@dataclass(frozen=True)
class Part:
    """One part of a drain; the CPU tells a slower drain from a busier machine."""

    rate: float
    server_cpu: float
    worker_cpu: float


def run(dsn: str, size: Size) -> None:
    seconds = size.pick(60, 8)
    rate = _usual_rate(dsn, size.pick(40_000, 8_000))
    # The backlog must outlast the drain, also where the drain gets faster.
    jobs = int(rate * (seconds + 2) * 2)
    if not room_for(dsn, BYTES * jobs):
        return
    shown: list[tuple[object, ...]] = []
    ratios: dict[bool, float] = {}
    dearer: dict[bool, float] = {}
    for held in (False, True):
        label = "held by another session" if held else "none"
        say(f"snapshot: {label}; draining for {seconds} s in front of {jobs:,} jobs …")
        with Installation(dsn) as at:
            fill(at, jobs)
            settle_tables(at)
            with _snapshot(at) if held else contextlib.nullcontext():
                parts = _parts(at, seconds)
        ratios[held] = parts[-1].rate / parts[0].rate
        dearer[held] = (parts[-1].server_cpu + parts[-1].worker_cpu) / (parts[0].server_cpu + parts[0].worker_cpu)
        for figure in fields(Part):
            values = [getattr(part, figure.name) for part in parts]
            shown.append((label, TITLES[figure.name], *values, values[-1] / values[0]))
    columns = ("snapshot", "figure", *(f"{part + 1}/{PARTS}" for part in range(PARTS)), "last beside first")
    markdown(f"Draining for {seconds} s, no-op jobs, ThreadWorker", columns, shown)
    target("last part beside the first, with the snapshot", ratios[True], TARGET, at_least=True)
    target("by CPU instead of time, which others take no part of", 1 / dearer[True], TARGET, at_least=True)


def _usual_rate(dsn: str, jobs: int) -> float:
    with Installation(dsn) as at:
        fill(at, jobs)
        settle_tables(at)
        return drain(at, THREADS, jobs).rate


@contextlib.contextmanager
def _snapshot(at: Installation) -> Iterator[None]:
    with psycopg.connect(at.dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        _ = connection.execute(f"select count(*) from {at.schema}._pgwerk_queues".encode())
        yield


def _parts(at: Installation, seconds: float) -> list[Part]:
    """Drain for so long; what each part of it brought and cost. The first second is not counted."""
    at.werk.pause_queue("default")
    looks: list[tuple[datetime, float, float]] = []
    with worker(at, THREADS) as (running,):
        resume(at)
        began = time.monotonic() + 1
        for number in range(PARTS + 1):
            time.sleep(max(0.0, began + number * seconds / PARTS - time.monotonic()))
            looks.append((at.execute("select clock_timestamp()")[0][0], cost(at).cpu, running.cpu()))
        ((left,),) = at.execute(f"select exists (select from {at.jobs} where status = 'queued')")
        if not left:
            say("the backlog came to its end: the last part is too low")
    rows = at.execute(
        f"""select width_bucket(completed_at, %s::timestamptz[]), count(*)
            from {at.jobs} where completed_at is not null group by 1""",
        [[look[0] for look in looks]],
    )
    counts: dict[int, int] = dict(rows)
    parts: list[Part] = []
    for number, (before, after) in enumerate(pairwise(looks), 1):
        jobs = counts.get(number, 0) or 1
        rate = jobs / (after[0] - before[0]).total_seconds()
        parts.append(Part(rate, (after[1] - before[1]) / jobs * 1e6, (after[2] - before[2]) / jobs * 1e6))
    return parts
