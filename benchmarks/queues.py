"""Eight queues with priorities beside one queue, with each strategy."""

from statistics import median

from benchmarks.installation import Installation
from benchmarks.running import THREADS, Drained, drain
from benchmarks.scenario import Size, fill, markdown, say, settle_tables, target

QUEUES = tuple(f"q{number}" for number in range(8))
TARGET = 0.8
ONE = "one queue"
SHAPES: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    ONE: (("default",), "'default'", "0", "priority"),
    "one queue, four priorities": (("default",), "'default'", "n % 4", "priority"),
    "8 queues, four priorities": (QUEUES, "'q' || n % 8", "n / 8 % 4", "priority"),
    "8 queues, four priorities, in turns": (QUEUES, "'q' || n % 8", "n / 8 % 4", "round_robin"),
    "8 queues, four priorities, at random": (QUEUES, "'q' || n % 8", "n / 8 % 4", "random"),
    "8 queues, all jobs in one of them": (QUEUES, "'q3'", "0", "priority"),
}
"""Names of queues, and SQL for the queue and the priority of job n; the strategy."""


def run(dsn: str, size: Size) -> None:
    jobs = size.pick(30_000, 2_000)
    found: dict[str, list[Drained]] = {name: [] for name in SHAPES}
    rounds = size.pick(7, 1)
    for number in range(rounds):
        for name, (queues, queue, priority, strategy) in SHAPES.items():
            say(f"round {number + 1}: {name} …")
            with Installation(dsn) as at:
                fill(at, jobs, queue=queue, priority=priority)
                settle_tables(at)
                found[name].append(drain(at, THREADS, jobs, queues=queues, dequeue_strategy=strategy))
    rates = {name: median(one.rate for one in drained) for name, drained in found.items()}
    ratios = {
        name: [one.rate / base.rate for one, base in zip(drained, found[ONE], strict=True)]
        for name, drained in found.items()
    }
    rows = [
        (
            name,
            rates[name],
            median(ratios[name]),
            f"{min(ratios[name]):.2f} … {max(ratios[name]):.2f}",
            median(one.server_cpu for one in drained),
        )
        for name, drained in found.items()
    ]
    markdown(
        f"Draining {jobs:,} no-op jobs, ThreadWorker, median of {rounds}",
        ("queues", "jobs/s", "beside one queue", "range", "server CPU µs/job"),
        rows,
    )
    worst = min((name for name in SHAPES if name.startswith("8")), key=lambda name: median(ratios[name]))
    target(f"slowest of the eight-queue drains ({worst})", median(ratios[worst]), TARGET, at_least=True)
