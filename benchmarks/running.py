"""A worker process of a scenario: started beside a paused queue, released on a word; its CPU, memory and rate."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pgwerk
from benchmarks.installation import Installation
from benchmarks.scenario import job_id, wait_for
from benchmarks.server_cost import TICK, cost
from pgwerk._core.names import Names

PATIENCE = 60.0


@dataclass(frozen=True)
class Kind:
    """One way to run workers."""

    name: str
    type: str
    settings: dict[str, Any]
    coroutines: bool = False
    core: int | None = None
    """The only CPU that it may use."""

    @property
    def missing(self) -> bool:
        """Whether this installation has no such type."""
        return not hasattr(pgwerk, self.type)


THREADS = Kind("ThreadWorker", "ThreadWorker", {})
KINDS = (
    Kind("Worker, 1 child", "Worker", {"processes": 1}),
    Kind("Worker, 2 children", "Worker", {"processes": 2}),
    THREADS,
    Kind("AsyncWorker", "AsyncWorker", {}, coroutines=True),
    Kind("ProcessWorker", "ProcessWorker", {}),
    Kind("ForkWorker", "ForkWorker", {}),
)


class Running:
    """A worker and the processes that it started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @property
    def pids(self) -> list[int]:
        """It and its descendants."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
        found = [self.process.pid]
        for pid in found:
            found += parents.get(pid, [])
        return found

    def cpu(self) -> float:
        """Seconds of CPU, those of children that ended included."""
        total = 0
        for pid in self.pids:
            with contextlib.suppress(OSError):
                total += sum(int(_stat(pid)[n]) for n in (11, 12, 13, 14))
        return total / TICK

    def memory(self) -> list[tuple[float, float]]:
        """MB of each process: resident, and its fair share of what is shared."""
        found: list[tuple[float, float]] = []
        for pid in self.pids:
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                sizes = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines[1:] if "kB" in line}
                found.append((sizes["Rss:"], sizes["Pss:"]))
        return found


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@contextlib.contextmanager
def worker(at: Installation, kind: Kind, *, count: int = 1, **settings: Any) -> Iterator[list[Running]]:
    """Run *count* worker processes until the end of the block; they are connected and idle when it begins."""
    spec = at.spec(**{"kind": kind.type, "burst": False, **kind.settings, **settings})
    sleepers = count * int(kind.settings.get("processes", 1))
    processes = [subprocess.Popen([sys.executable, "-m", "benchmarks.worker", spec]) for _ in range(count)]
    try:
        if kind.core is not None:
            for process in processes:
                os.sched_setaffinity(process.pid, {kind.core})
        wait_for(at, f"select count(*) >= {sleepers} from {at.schema}._pgwerk_idle", seconds=PATIENCE)
        yield [Running(process) for process in processes]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                _ = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True)
class Drained:
    """How a worker got on with a queue."""

    rate: float
    """Jobs a second, from the first start to the last end, as the rows say."""
    worker_cpu: float
    """Microseconds a job."""
    server_cpu: float


def drain(
    at: Installation, kind: Kind, jobs: int, *, first: int = 0, queues: Sequence[str] = ("default",), **settings: Any
) -> Drained:
    """Start a worker beside paused queues, release it, and measure *jobs* jobs from number *first*."""
    for queue in queues:
        at.werk.pause_queue(queue)
    with worker(at, kind, queues=queues, **settings) as (running,):
        return measured(at, running, jobs, first)


def measured(at: Installation, running: Running, jobs: int, first: int = 0) -> Drained:
    """Release a worker that waits beside paused queues, until *jobs* jobs from number *first* have ended.

    There may be more behind them; those that end meanwhile count for the CPU.
    """
    low, high = job_id(first), job_id(first + jobs - 1)
    before, own = cost(at), running.cpu()
    resume(at)
    # The last one first: looking at all of them again and again would take part in what is measured.
    wait_for(at, f"select completed_at is not null from {at.jobs} where id = %s", [high])
    rest = f"select not exists (select from {at.jobs} where id between %s and %s and completed_at is null)"
    wait_for(at, rest, [low, high])
    spent, after = running.cpu() - own, cost(at)
    ((now,),) = at.execute("select clock_timestamp()")
    ((seconds, ended),) = at.execute(
        f"""select extract(epoch from max(completed_at) filter (where id <= %s) - min(started_at))::float8,
                   count(*) filter (where completed_at <= %s)
            from {at.jobs} where id between %s and %s and claim_id is not null""",
        [high, now, low, job_id(first + 100 * jobs)],
    )
    return Drained(jobs / seconds, spent / ended * 1e6, (after.cpu - before.cpu) / ended * 1e6)


def resume(at: Installation) -> None:
    """Let workers claim, from all queues at once."""
    at.execute(f"update {at.schema}._pgwerk_queues set paused_at = null")
    channel = Names(at.werk.schema, at.werk.prefix).wake_channel
    at.execute(f"select pg_notify(%s, 'q' || name) from {at.schema}._pgwerk_queues", [channel])
