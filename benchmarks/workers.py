"""Rate and CPU of every type of worker, by kind of job."""

from dataclasses import dataclass, replace

from benchmarks.installation import Installation
from benchmarks.running import KINDS, Drained, Kind, drain
from benchmarks.scenario import Size, fill, markdown, say, settle_tables, target

COLUMNS = ("worker", "job", "jobs", "jobs/s", "beside ThreadWorker", "worker CPU µs/job", "server CPU µs/job")
FORKS_PER_CORE = 100


@dataclass(frozen=True)
class Load:
    """One kind of job, and how many of it."""

    name: str
    function: str
    full: int
    quick: int


LOADS = (
    Load("nothing", "nothing", 20_000, 600),
    Load("1 ms of sleep", "sleep_1ms", 6_000, 300),
    Load("5 ms of CPU", "burn", 800, 60),
)
FORKS = 800
"""Of a worker that starts a process for each job: fewer jobs."""


def run(dsn: str, size: Size) -> None:
    rows: list[tuple[object, ...]] = []
    for load in LOADS:
        by_threads = float("nan")
        # First the one that the others are compared with.
        for kind in sorted(KINDS, key=lambda kind: kind.type != "ThreadWorker"):
            if kind.missing:
                rows.append((kind.name, load.name, "not there yet", "-", "-", "-", "-"))
                continue
            done, count = _measured(dsn, kind, load, size)
            if kind.type == "ThreadWorker":
                by_threads = done.rate
            rows.append(
                (kind.name, load.name, count, done.rate, done.rate / by_threads, done.worker_cpu, done.server_cpu)
            )
    one_core = replace(next(kind for kind in KINDS if kind.type == "ForkWorker"), name="ForkWorker, one core", core=0)
    forks = None
    if not one_core.missing:
        forks, count = _measured(dsn, one_core, LOADS[0], size)
        rows.append((one_core.name, LOADS[0].name, count, forks.rate, "-", forks.worker_cpu, forks.server_cpu))
    markdown("Types of workers, concurrency 10", COLUMNS, rows)
    if forks is not None:
        target("ForkWorker on one core, jobs/s", forks.rate, FORKS_PER_CORE, at_least=True)


def _measured(dsn: str, kind: Kind, load: Load, size: Size) -> tuple[Drained, int]:
    say(f"{kind.name}: {load.name} …")
    count = size.pick(load.full, load.quick)
    if kind.type == "ForkWorker":
        count = min(count, FORKS)
    with Installation(dsn) as at:
        fill(at, count, f"{load.function}_async" if kind.coroutines else load.function)
        settle_tables(at)
        return drain(at, kind, count), count
