"""Half the capacity for a long time, mixed jobs, rows that go away again: do tables, indexes or processes grow?"""

import random
import threading
import time
from dataclasses import astuple, dataclass
from statistics import mean

from benchmarks import handlers
from benchmarks.installation import Installation
from benchmarks.running import Kind, Running, worker
from benchmarks.scenario import Size, markdown, say
from benchmarks.server_cost import cost
from pgwerk import EnqueueParams, Group, Retry, Werk

CONCURRENCY = 10
LOAD = 0.5
"""Of the slots' time."""
MEAN = 0.0062
"""Seconds that a job of the mix takes, its further attempts included."""
TICK = 0.1
FLAT = 1.1
"""Last third beside the middle one."""
COLUMNS = (
    "minute", "enqueued/s", "ended/s", "waiting", "rows", "dead", "jobs MB", "its indexes MB", "executions MB",
    "claims MB", "worker PSS MB", "server CPU %", "worker CPU %",
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """What was found at a time; megabytes but for counts and rates."""

    minute: float
    enqueued: float
    ended: float
    waiting: int
    rows: int
    dead: int
    jobs: float
    indexes: float
    executions: float
    claims: float
    memory: float
    server: float
    worker: float


def run(dsn: str, size: Size) -> None:
    minutes = 0.5 if size.quick else size.minutes
    every = 5.0 if size.quick else 60.0
    # Rows stay for a few sweeps, and three times shorter than a third of the run.
    keep = 3.0 if size.quick else min(60.0, minutes * 60 / 9)
    kind = Kind("Worker, 2 children", "Worker", {"processes": 2, "concurrency": CONCURRENCY})
    with Installation(dsn) as at, worker(at, kind, sweep_interval=keep / 3, log="ERROR") as (running,):
        producer = _Producer(dsn, at.schema, keep)
        producer.start()
        try:
            samples = _watch(at, running, producer, minutes * 60, every)
        finally:
            producer.stop()
        ((autovacuums, last),) = at.execute(
            "select autovacuum_count, last_autovacuum from pg_stat_user_tables where relid = %s::regclass", [at.jobs]
        )
        options = at.execute("select reloptions from pg_class where oid = %s::regclass", [at.jobs])[0][0]
    markdown(
        f"{minutes:g} minutes at {LOAD:.0%} of {CONCURRENCY} slots, rows kept for {keep:.0f} s",
        COLUMNS,
        [astuple(one) for one in samples],
    )
    print(f"\nautovacuum of jobs: {autovacuums} times, last {last}; its settings: {', '.join(options or ['none'])}")
    if size.quick:
        print("Too quick to judge: autovacuum looks once a minute.")
    else:
        _judge(samples)


def _judge(samples: list[Sample]) -> None:
    third = len(samples) // 3
    if not third:
        return
    for name in ("jobs", "indexes", "executions", "claims", "memory", "rows", "waiting"):
        middle = mean(getattr(one, name) for one in samples[third : 2 * third])
        last = mean(getattr(one, name) for one in samples[-third:])
        ratio = last / middle if middle else 1.0
        print(f"{name}: last third beside the middle one {ratio:.2f}: {'flat' if ratio <= FLAT else 'GROWING'}")


class _Producer(threading.Thread):
    """Enqueues the mix evenly, until stopped."""

    def __init__(self, dsn: str, schema: str, keep: float) -> None:
        super().__init__(daemon=True)
        self._app = Werk(dsn, schema=schema)
        self._over = threading.Event()
        self._keep = keep
        self.enqueued = 0

    def run(self) -> None:
        rate = LOAD * CONCURRENCY / MEAN
        began = time.monotonic()
        with self._app:
            while not self._over.wait(TICK):
                due = int((time.monotonic() - began) * rate) - self.enqueued
                _ = self._app.enqueue_many([self._job() for _ in range(due)])
                self.enqueued += due

    def stop(self) -> None:
        """End, and wait for it."""
        self._over.set()
        self.join()

    def _job(self) -> EnqueueParams:
        keep = self._keep
        draw = random.random()
        if draw < 0.6:
            return EnqueueParams(handlers.nothing, (1,), result_ttl=keep)
        if draw < 0.75:
            return EnqueueParams(handlers.pause, (0.01,), result_ttl=keep, delay=random.uniform(0, 2 * keep / 3))
        if draw < 0.9:
            return EnqueueParams(handlers.produce, (0.02, 100), result_ttl=keep, priority=random.randrange(4))
        if draw < 0.97:
            retry = Retry(3, (keep / 30, keep / 10))
            return EnqueueParams(handlers.stumble, (0.01, 0.5), retry=retry, result_ttl=keep, failure_ttl=keep)
        group = Group(f"group {random.randrange(20)}", 2)
        return EnqueueParams(handlers.pause, (0.02,), group=group, result_ttl=keep)


def _watch(at: Installation, running: Running, producer: _Producer, seconds: float, every: float) -> list[Sample]:
    samples: list[Sample] = []
    began = time.monotonic()
    before = (began, 0, 0, cost(at).cpu, running.cpu())
    while time.monotonic() - began < seconds:
        time.sleep(every)
        ended = _ended(at)
        now = (time.monotonic(), producer.enqueued, ended, cost(at).cpu, running.cpu())
        elapsed = now[0] - before[0]
        enqueued, done, server, spent = (new - old for new, old in zip(now[1:], before[1:], strict=True))
        samples.append(
            Sample(
                round((now[0] - began) / 60, 2), enqueued / elapsed, done / elapsed, *_sizes(at),
                sum(one[1] for one in running.memory()), server / elapsed * 100, spent / elapsed * 100,
            )
        )  # fmt: skip
        before = now
        say(str(samples[-1]))
    return samples


def _ended(at: Installation) -> int:
    """How many ended, those that are gone included: what was inserted and has not."""
    ((inserted, unended),) = at.execute(
        f"""select (select n_tup_ins from pg_stat_user_tables where relid = %s::regclass),
                   (select count(*) from {at.jobs} where completed_at is null)""",
        [at.jobs],
    )
    return int(inserted - unended)


def _sizes(at: Installation) -> tuple[int, int, int, float, float, float, float]:
    ((waiting, rows, dead, *sizes),) = at.execute(
        f"""select (select count(*) from {at.jobs} where status in ('queued', 'active')),
                   (select count(*) from {at.jobs}),
                   (select n_dead_tup from pg_stat_user_tables where relid = '{at.jobs}'::regclass),
                   pg_table_size('{at.jobs}') / 1e6::float8, pg_indexes_size('{at.jobs}') / 1e6::float8,
                   pg_total_relation_size('{at.executions}') / 1e6::float8,
                   pg_total_relation_size('{at.schema}._pgwerk_claims') / 1e6::float8"""
    )
    return (waiting, rows, dead, *sizes)
