"""`python -m benchmarks`: a table of ratios."""

import argparse
import contextlib
import sys
from collections.abc import Iterator

import psycopg

from benchmarks import bulk, drain, latency, single
from benchmarks.installation import Installation
from benchmarks.table import Figure, show
from pgwerk import embedded

SHOWN = "select name, setting from pg_settings where name in ('fsync', 'synchronous_commit', 'shared_buffers')"
SERVER = {"synchronous_commit": "on", "max_connections": "50"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--dsn", help="a server to use (schemas bench_* are made and dropped); default: a throw-away one"
    )
    parser.add_argument("--repeat", type=int, default=3, help="how often everything is measured; medians count [3]")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs of the bulk and drain measurements [20000]")
    parser.add_argument("--quick", action="store_true", help="small and once: shows that it works, not how fast it is")
    parser.add_argument("--only", choices=["single", "bulk", "drain", "latency"], action="append", help="measure these")
    parser.add_argument("--require", type=float, metavar="RATIO", help="exit 1 when the thread worker drains slower")
    return parser.parse_args()


@contextlib.contextmanager
def server(dsn: str | None) -> Iterator[str]:
    if dsn:
        yield dsn
        return
    with embedded.temporary(fsync=True, settings=SERVER) as own:
        yield own.dsn


def measure(dsn: str, options: argparse.Namespace) -> list[Figure]:
    jobs = 2000 if options.quick else options.jobs
    singles = 200 if options.quick else 2000
    signals = 15 if options.quick else 150
    wanted = options.only or ["single", "bulk", "drain", "latency"]
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


def describe(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        shown = [f"{row[0]}={row[1]}" for row in connection.execute(SHOWN)]
        version = connection.info.parameter_status("server_version")
    return f"Postgres {version}, {', '.join(shown)}; psycopg {psycopg.__version__} ({psycopg.pq.__impl__})"


def main() -> None:
    options = arguments()
    with server(options.dsn) as dsn:
        print(describe(dsn))
        figures = measure(dsn, options)
    ratios = show(figures)
    drained = ratios.get(drain.THREAD_WORKER)
    if options.require is not None and (drained is None or drained < options.require):
        print(f"\nThe thread worker drains at {drained} of the raw loop; {options.require} is required.")
        sys.exit(1)


if __name__ == "__main__":
    main()
