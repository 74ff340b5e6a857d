"""Draining in front of a long queue, many jobs for later and a long history, beside the same on an empty table.

And a long queue that comes at once to a worker that has been idle on an empty table for a while: its statements are
prepared, and planned for a table of a few rows, which nobody has analyzed since.
"""

import time
from dataclasses import dataclass

from benchmarks import handlers
from benchmarks.installation import Installation
from benchmarks.running import THREADS, Drained, drain, measured, worker
from benchmarks.scenario import Size, fill, markdown, room_for, say, settle_tables, target

TARGET = 0.9
WARM = 30
"""Jobs before; Postgres plans a prepared statement anew five times."""
FINISHED = 5
"""Ended jobs for each queued one."""
BYTES = 1500
"""Disk for a row with its indexes, its WAL and its execution, generously."""
COLUMNS = (
    "table also holds", "jobs/s", "empty before", "empty after", "ratio", "server CPU µs/job", "… empty"
)  # fmt: skip


@dataclass(frozen=True)
class Bulk:
    """What is in the table besides the jobs that are measured."""

    name: str
    queued: int = 0
    later: int = 0
    ended: int = 0

    @property
    def rows(self) -> int:
        """How many."""
        return self.queued + self.later + self.ended


def run(dsn: str, size: Size) -> None:
    rows = size.pick(size.rows, 20_000)
    jobs = size.pick(40_000, 4_000)
    bulks = (
        Bulk(f"{rows:,} queued", queued=rows),
        Bulk(f"{rows:,} due later", later=rows),
        Bulk(f"{FINISHED * rows:,} ended", ended=FINISHED * rows),
        Bulk("all of them", rows, rows, FINISHED * rows),
    )
    shown: list[tuple[object, ...]] = []
    before, ratio, empty_cpu = _drained(dsn, jobs, Bulk("empty")), 0.0, 0.0
    for bulk in bulks:
        if not room_for(dsn, BYTES * bulk.rows):
            return
        done = _drained(dsn, jobs, bulk)
        after = _drained(dsn, jobs, Bulk("empty"))
        ratio = 2 * done.rate / (before.rate + after.rate)
        empty_cpu = (before.server_cpu + after.server_cpu) / 2
        shown.append((bulk.name, done.rate, before.rate, after.rate, ratio, done.server_cpu, empty_cpu))
        before = after
    surprised = _surprised(dsn, jobs)
    surprise = surprised.rate / before.rate
    shown.append(
        (f"{jobs * 3 // 2:,} come at once", surprised.rate, before.rate, "-", surprise, surprised.server_cpu, empty_cpu)
    )
    markdown(f"Draining {jobs:,} no-op jobs, ThreadWorker", COLUMNS, shown)
    target("all of them, beside an empty table", ratio, TARGET, at_least=True)
    target("what comes at once to an idle worker, beside an empty table", surprise, TARGET, at_least=True)


def _drained(dsn: str, jobs: int, bulk: Bulk) -> Drained:
    with Installation(dsn) as at:
        say(f"filling: {bulk.name} …")
        # Some more than are measured, so that the end of the queue is not part of it.
        front = jobs * 3 // 2 + bulk.queued
        fill(at, bulk.ended, status="complete")
        fill(at, front, first=bulk.ended)
        fill(at, bulk.later, first=bulk.ended + front, status="scheduled")
        settle_tables(at)
        done = drain(at, THREADS, jobs, first=bulk.ended)
    say(f"{bulk.name}: {done.rate:,.0f}/s")
    return done


def _surprised(dsn: str, jobs: int) -> Drained:
    with Installation(dsn) as at, worker(at, THREADS) as (running,):
        # One by one: often enough that the server settles on plans that it keeps.
        for number in range(WARM):
            _ = at.werk.enqueue(handlers.nothing, number)
            time.sleep(0.05)
        at.werk.pause_queue("default")
        say(f"{jobs * 3 // 2:,} come at once …")
        fill(at, jobs * 3 // 2)
        at.execute("checkpoint")
        return measured(at, running, jobs)
