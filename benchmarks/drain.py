"""Draining a backlog of jobs that do nothing: workers in a fresh process beside a raw loop in a fresh process.

The time is from the first start to the last completion, as the rows say.
"""

import subprocess
import sys
from collections.abc import Callable

from benchmarks.installation import Installation
from benchmarks.server_cost import cost
from benchmarks.table import Figure

BATCH = 400
"""About what a worker claims at once by itself when jobs do nothing: with it, the raw loop commits as seldom."""
THREAD_WORKER = "drain, ThreadWorker"
PREFORK_WORKER = "drain, Worker(processes=1)"


def measure(dsn: str, count: int) -> list[Figure]:
    """Drain with each in turn, each on tables of its own: raw before and after, so that both ends of a drift count."""
    before, raw_details = _drained(dsn, count, _raw)
    threads, thread_details = _drained(dsn, count, _thread_worker)
    prefork, prefork_details = _drained(dsn, count, _prefork_worker)
    large, large_details = _drained(dsn, count, _raw_in_large_batches)
    after, _ = _drained(dsn, count, _raw)
    raw = (before + after) / 2
    return [
        Figure(THREAD_WORKER, threads, raw, details=thread_details),
        Figure(f"{THREAD_WORKER}, raw in {BATCH}s", threads, large),
        Figure(PREFORK_WORKER, prefork, raw, details=prefork_details),
        Figure(f"drain, the raw loop in {BATCH}s (beside 100s)", large, raw, details=large_details),
        Figure("drain, the raw loop (before beside after)", before, after, details=raw_details),
    ]


def _drained(dsn: str, count: int, run: Callable[[Installation], None]) -> tuple[float, dict[str, float]]:
    with Installation(dsn) as at:
        at.fill(count)
        at.werk.close()  # nobody else is connected
        before = cost(at)
        run(at)
        after = cost(at)
        ((seconds, ended, executions),) = at.execute(
            f"""select extract(epoch from max(completed_at) - min(started_at))::float8,
                       count(*) filter (where status = 'complete'),
                       (select count(*) from {at.executions} where status = 'complete')
                from {at.jobs}"""
        )
        assert (ended, executions) == (count, count), (ended, executions)
        return count / seconds, after.since(before, count)


def _run(module: str, spec: str) -> None:
    _ = subprocess.run([sys.executable, "-m", module, spec], check=True, timeout=600)


def _raw(at: Installation) -> None:
    _run("benchmarks.raw_loop", at.spec(batch=100))


def _raw_in_large_batches(at: Installation) -> None:
    _run("benchmarks.raw_loop", at.spec(batch=BATCH))


def _thread_worker(at: Installation) -> None:
    _run("benchmarks.worker", at.spec(kind="ThreadWorker"))


def _prefork_worker(at: Installation) -> None:
    _run("benchmarks.worker", at.spec(kind="Worker", processes=1))
