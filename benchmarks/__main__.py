"""`python -m benchmarks`: a table of ratios."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator

import psycopg

from benchmarks import (
    backlog,
    bulk,
    drain,
    idle,
    latency,
    producers,
    queues,
    sharing,
    single,
    snapshot,
    soak,
    statements,
    workers,
)
from benchmarks.installation import Installation
from benchmarks.scenario import CACHES, Size
from benchmarks.table import Figure, show
from pgwerk import embedded

SHOWN = "select name, setting from pg_settings where name in ('fsync', 'synchronous_commit', 'shared_buffers')"
SERVER = {"synchronous_commit": "on", "max_connections": "50"}
BASICS = ["single", "bulk", "drain", "latency"]
SCENARIOS: dict[str, Callable[[str, Size], None]] = {
    "workers": workers.run,
    "idle": idle.run,
    "backlog": backlog.run,
    "snapshot": snapshot.run,
    "queues": queues.run,
    "sharing": sharing.run,
    "producers": producers.run,
    "soak": soak.run,
}
"""Measured when they are named: they take minutes."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--dsn", help="a server to use (schemas bench_* are made and dropped); default: a throw-away one"
    )
    parser.add_argument("--repeat", type=int, default=3, help="how often everything is measured; medians count [3]")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs of the bulk and drain measurements [20000]")
    parser.add_argument("--quick", action="store_true", help="small and once: shows that it works, not how fast it is")
    parser.add_argument("--only", choices=[*BASICS, *SCENARIOS], action="append", help="measure these")
    parser.add_argument("--require", type=float, metavar="RATIO", help="exit 1 when the thread worker drains slower")
    parser.add_argument("--rows", type=int, default=1_000_000, help="queued jobs of `backlog`; 7 times as many in all")
    parser.add_argument("--minutes", type=float, default=30, help="length of `soak` [30]")
    parser.add_argument(
        "--statements", action="store_true", help="show what took the server's time (PG_BIN with pg_stat_statements)"
    )
    return parser.parse_args()


@contextlib.contextmanager
def server(options: argparse.Namespace) -> Iterator[str]:
    if options.dsn:
        yield options.dsn
        return
    settings = SERVER
    if set(options.only or ()) & SCENARIOS.keys():
        settings = settings | CACHES
    if options.statements:
        settings = settings | statements.PRELOAD
    with embedded.temporary(fsync=True, settings=settings) as own:
        yield own.dsn


def measure(dsn: str, options: argparse.Namespace) -> list[Figure]:
    jobs = 2000 if options.quick else options.jobs
    singles = 200 if options.quick else 2000
    signals = 15 if options.quick else 150
    wanted = options.only or BASICS
    figures: list[Figure] = []
    for number in range(1 if options.quick else options.repeat):
        print(f"round {number + 1} …", file=sys.stderr, flush=True)
        if "single" in wanted:
            with Installation(dsn) as at:
                figures += single.measure(at, singles)
        if "bulk" in wanted:
            with Installation(dsn) as at:
                figures += bulk.measure(at, jobs)
        if "drain" in wanted:
            figures += drain.measure(dsn, jobs)
        if "latency" in wanted:
            figures += latency.measure(dsn, signals)
    return figures


def play(dsn: str, options: argparse.Namespace) -> None:
    """The scenarios that were named; each prints its own table."""
    size = Size(options.quick, 1 if options.quick else options.repeat, options.rows, options.minutes)
    for name in dict.fromkeys(options.only or ()):
        if name in SCENARIOS:
            if options.statements:
                statements.forget(dsn)
            SCENARIOS[name](dsn, size)
            if options.statements:
                statements.show(dsn)


def describe(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        shown = [f"{row[0]}={row[1]}" for row in connection.execute(SHOWN)]
        version = connection.info.parameter_status("server_version")
    return f"Postgres {version}, {', '.join(shown)}; psycopg {psycopg.__version__} ({psycopg.pq.__impl__})"


def main() -> None:
    options = arguments()
    with server(options) as dsn:
        print(describe(dsn), flush=True)
        play(dsn, options)
        if options.only and not set(options.only) & set(BASICS):
            return
        figures = measure(dsn, options)
    ratios = show(figures)
    drained = ratios.get(drain.THREAD_WORKER)
    if options.require is not None and (drained is None or drained < options.require):
        print(f"\nThe thread worker drains at {drained} of the raw loop; {options.require} is required.")
        sys.exit(1)


if __name__ == "__main__":
    main()
