"""`python -m benchmarks.peers`: a table of pgwerk, other job queues and the raw reference, measured in turns."""

import argparse
import contextlib
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator

from benchmarks.__main__ import describe
from benchmarks.peers import environments, stores
from benchmarks.peers.contenders import CONTENDERS, RAW, Contender
from benchmarks.peers.environments import Environment, UnavailableError
from benchmarks.peers.report import Row, markdown
from benchmarks.peers.turns import Result, Size, Turn, scratch
from pgwerk import embedded

LEAST_JOBS = 1000
SERVER = {"synchronous_commit": "on", "max_connections": "150"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument(
        "--only", metavar="NAME", choices=names, action="append", help="measure these and the raw reference"
    )
    parser.add_argument("--repeat", type=int, default=3, help="how many rounds; medians count [3]")
    parser.add_argument("--jobs", type=int, default=20_000, help="jobs of the bulk and drain measurements [20000]")
    parser.add_argument(
        "--drain-seconds", type=float, default=30, help="longer drains are cut short, their rate counts [30]"
    )
    parser.add_argument("--list", action="store_true", help="say who takes part")
    options = parser.parse_args()
    if options.jobs < LEAST_JOBS:
        parser.error(f"--jobs: at least {LEAST_JOBS}, or Postgres' plans are those of a toy")
    return options


def main() -> None:
    options = arguments()
    if options.list:
        for contender in CONTENDERS:
            print(f"{contender.name:<18}{contender.title}: {contender.settings}")
        return
    # The workers are in sessions of their own: whatever ends this process must end them, too.
    _ = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    started = time.monotonic()
    wanted = [one for one in CONTENDERS if one is RAW or not options.only or one.name in options.only]
    rows = [Row(contender) for contender in wanted]
    ready = dict(_prepare(rows))
    with contextlib.ExitStack() as stack:
        dsn = stack.enter_context(embedded.temporary(fsync=True, settings=SERVER)).dsn
        redis = _redis(stack, [row for row in rows if row.contender.redis])
        size = Size(
            jobs=options.jobs,
            singles=min(2000, options.jobs),
            rings=60,
            drain_seconds=options.drain_seconds,
        )
        for number in range(options.repeat):
            for row in rows:
                environment = ready.get(row.contender.name)
                if environment is None or row.reason:
                    continue
                _say(f"round {number + 1} of {options.repeat}: {row.contender.name}")
                row.results.append(_turn(row.contender, environment, dsn, redis, size))
        print(f"{describe(dsn)}; Python {platform.python_version()}, {os.cpu_count()} CPUs")
        if redis:
            print(f"Redis {'.'.join(map(str, redis.version()))}, {' '.join(stores.REDIS_SETTINGS[:4])}")
    print()
    print(markdown(rows, jobs=options.jobs))
    _say(f"{time.monotonic() - started:.0f} seconds")


def _prepare(rows: list[Row]) -> Iterator[tuple[str, Environment]]:
    """Install what is missing; who cannot be installed gets the reason."""
    for row in rows:
        try:
            environment = environments.make(row.contender)
        except (UnavailableError, OSError) as error:
            row.reason = str(error)
            _say(f"{row.contender.name}: {error}")
        else:
            row.version = environment.version
            yield row.contender.name, environment


def _redis(stack: contextlib.ExitStack, rows: list[Row]) -> stores.Redis | None:
    if not rows:
        return None
    try:
        return stack.enter_context(stores.redis())
    except (UnavailableError, OSError) as error:
        for row in rows:
            row.reason = row.reason or str(error)
        return None


def _turn(contender: Contender, environment: Environment, dsn: str, redis: stores.Redis | None, size: Size) -> Result:
    """Measure everything about one contender, once; each half on an empty store."""
    result = Result()
    halves = [Turn.fill_and_drain] if contender.drains_only else [Turn.enqueue_and_start, Turn.fill_and_drain]
    for measure in halves:
        with contextlib.ExitStack() as stack:
            directory = stack.enter_context(scratch())
            store: stores.Store
            if contender.redis:
                assert redis is not None
                redis.empty()
                store = redis
            else:
                store = stack.enter_context(stores.database(dsn))
            found = measure(Turn(contender, environment, store, directory), size)
            result.rates |= found.rates
            result.notes += found.notes
    for note in result.notes:
        _say(f"  {note}")
    return result


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
