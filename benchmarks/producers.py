"""Sixteen producers beside a worker: what telling idle workers costs them.

The same with the notification cut out of the statement, with one that nobody hears (what is left is the cost to the
producers, without that of a worker that wakes up more often), and with one for each job; in turns. The worker polls
often in all of them, so that it keeps up whether it is told or not.
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import get_args

from benchmarks.installation import Installation
from benchmarks.producer import Telling
from benchmarks.running import THREADS, worker
from benchmarks.scenario import Size, markdown, say, target
from benchmarks.server_cost import cost

PRODUCERS = 16
POLL = 0.02
TARGET = 0.9


@dataclass(frozen=True)
class Rates:
    """What came of one run."""

    enqueued: float
    ended: float
    asleep: float
    """In which share of our looks some worker wanted to be told."""
    server_cpu: float


def run(dsn: str, size: Size) -> None:
    seconds = float(size.pick(4, 2))
    ways: tuple[Telling, ...] = get_args(Telling)
    found: dict[Telling, list[Rates]] = {way: [] for way in ways}
    for number in range(size.rounds):
        for way in ways:
            say(f"round {number + 1}: {PRODUCERS} producers, workers are told: {way} …")
            found[way].append(_rates(dsn, way, seconds))
    ratios = {
        way: median(one.enqueued / silent.enqueued for one, silent in zip(rates, found["never"], strict=True))
        for way, rates in found.items()
    }
    rows = [
        (
            way,
            median(one.enqueued for one in rates),
            ratios[way],
            median(one.ended for one in rates),
            median(one.asleep for one in rates) * 100,
            median(one.server_cpu for one in rates),
        )
        for way, rates in found.items()
    ]
    markdown(
        f"{PRODUCERS} processes enqueue one by one for {seconds:.0f} s, ThreadWorker drains",
        ("workers are told", "enqueued/s", "beside never", "ended/s", "worker sleeps, % of looks", "server CPU µs/job"),
        rows,
    )
    target("as it is, beside never", ratios["as it is"], TARGET, at_least=True)


def _rates(dsn: str, telling: Telling, seconds: float) -> Rates:
    with Installation(dsn) as at, worker(at, THREADS, poll_interval=POLL):
        command = [sys.executable, "-m", "benchmarks.producer", at.spec(telling=telling)]
        producers = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(PRODUCERS)
        ]
        try:
            for producer in producers:
                assert producer.stdout is not None
                assert producer.stdout.readline() == "ready\n"
            before = cost(at)
            until = time.monotonic() + seconds
            for producer in producers:
                assert producer.stdin is not None
                _ = producer.stdin.write(f"{until}\n")
                producer.stdin.flush()
            looks: list[bool] = []
            while time.monotonic() < until:
                looks.append(at.execute(f"select exists (select from {at.schema}._pgwerk_idle)")[0][0])
                time.sleep(0.05)
            ((ended,),) = at.execute(f"select count(*) from {at.jobs} where completed_at is not null")
            after = cost(at)
            enqueued = sum(int(producer.communicate(timeout=60)[0]) for producer in producers)
        finally:
            for producer in producers:
                producer.kill()
    return Rates(
        enqueued / seconds, ended / seconds, sum(looks) / len(looks), (after.cpu - before.cpu) / enqueued * 1e6
    )
