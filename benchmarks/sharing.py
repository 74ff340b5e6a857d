"""Nobody hoards slow jobs, and two workers share mixed ones: they are done about when a perfect schedule is."""

import heapq
import time

from benchmarks.installation import Installation
from benchmarks.running import THREADS, resume, worker
from benchmarks.scenario import Size, fill, job_id, markdown, settle_tables, target, wait_for

SLOTS = 5
SECONDS = "case when n % 20 = 0 then 0.25 when n % 5 = 0 then 0.05 else 0.005 end"
"""Of the mixed jobs: most quick, some slow, a few very."""
TARGET = 1.1


def run(dsn: str, size: Size) -> None:
    fresh = _held(dsn, 0, size.pick(3, 1))
    after_quick = _held(dsn, size.pick(4_000, 500), size.pick(3, 1))
    rows = [("slow jobs only", *fresh, SLOTS), ("slow jobs behind quick ones", *after_quick, SLOTS)]
    markdown(
        f"Jobs held by a worker of {SLOTS} threads beside a backlog of slow jobs",
        ("backlog", "at most", "at most, half a second after the last quick one", "threads"),
        rows,
    )
    target("jobs held, half a second on", float(max(fresh[1], after_quick[1])), SLOTS, at_least=False)
    shared = [_shared(dsn, size.pick(1_000, 200)) for _ in range(size.rounds)]
    markdown(
        f"Two workers of {SLOTS} threads, mixed jobs of 5, 50 and 250 ms",
        ("jobs", "seconds", "perfect schedule", "ratio", "work / slots", "jobs of the one : the other"),
        [(jobs, took, best, took / best, least, share) for jobs, took, best, least, share in shared],
    )
    worst = max(took / best for _, took, best, _, _ in shared)
    target("longest beside a perfect schedule in the same order", worst, TARGET, at_least=False)


def _held(dsn: str, quick: int, slow_seconds: int) -> tuple[int, int]:
    """The most jobs that were claimed at once; and from half a second after the last quick one."""
    with Installation(dsn) as at:
        fill(at, quick)
        fill(at, 40, "pause", first=quick, argument=str(slow_seconds))
        settle_tables(at)
        at.werk.pause_queue("default")
        active = f"select count(*) from {at.jobs} where status = 'active' and id >= %s"
        most = later = 0
        with worker(at, THREADS, concurrency=SLOTS, shutdown_timeout=0.1):
            resume(at)
            if quick:
                wait_for(
                    at, f"select completed_at is not null from {at.jobs} where id = %s", [job_id(quick - 1)], every=0.01
                )
            began = time.monotonic()
            while time.monotonic() < began + 2.5 * slow_seconds:
                ((held,),) = at.execute(active, [job_id(quick)])
                most = max(most, held)
                if time.monotonic() > began + 0.5:
                    later = max(later, held)
                time.sleep(0.01)
        return most, later


def _shared(dsn: str, jobs: int) -> tuple[int, float, float, float, str]:
    with Installation(dsn) as at:
        fill(at, jobs, "pause", argument=SECONDS)
        settle_tables(at)
        at.werk.pause_queue("default")
        with worker(at, THREADS, count=2, concurrency=SLOTS):
            resume(at)
            rest = f"select not exists (select from {at.jobs} where completed_at is null)"
            wait_for(at, rest)
        ((took,),) = at.execute(
            f"select extract(epoch from max(completed_at) - min(started_at))::float8 from {at.jobs}"
        )
        shares = at.execute(f"select count(*) from {at.executions} group by worker_id order by 1 desc")
        durations = [float(row[0]) for row in at.execute(f"select payload->'args'->>0 from {at.jobs} order by id")]
    share = " : ".join(str(row[0]) for row in shares)
    return jobs, took, _perfect(durations, 2 * SLOTS), sum(durations) / (2 * SLOTS), share


def _perfect(durations: list[float], slots: int) -> float:
    """When the last one ends if whatever slot is free takes the next, at once and at no cost."""
    free = [0.0] * slots
    for seconds in durations:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)
