"""What the scenarios share: sizes, jobs made by one INSERT, a worker process that starts on a word, Markdown tables."""

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import conninfo

from benchmarks.installation import Installation

CACHES = {"max_connections": "100", "shared_buffers": "512MB", "max_wal_size": "4GB"}
"""Of the throw-away server: what somebody with millions of rows would give it."""


@dataclass(frozen=True)
class Size:
    """How much a scenario does."""

    quick: bool = False
    rounds: int = 3
    rows: int = 1_000_000
    """Queued jobs of a large table; as many more are due later, and five times as many have ended."""
    minutes: float = 30.0

    def pick(self, full: int, quick: int) -> int:
        """One of two numbers."""
        return quick if self.quick else full


def job_id(number: int) -> str:
    """The id of a filled job; ids ascend, so that they are claimed in the order of their numbers."""
    return f"{_BASE + number:012x}-7000-8000-{_BASE + number:012x}"


_BASE = 0x018000000000
_FILL = """
insert into {jobs} (id, function, queue, priority, status, payload, scheduled_at, enqueued_at, attempts, started_at,
                    completed_at)
select (lpad(to_hex({base} + n), 12, '0') || '70008000' || lpad(to_hex({base} + n), 12, '0'))::uuid,
       {function}, {queue}, {priority}, {status}, jsonb_build_object('args', jsonb_build_array({argument})),
       {due}, statement_timestamp(), {attempts}, {started}, {started}
from generate_series({first}, {last}) n
"""


def fill(
    at: Installation,
    count: int,
    function: str = "nothing",
    *,
    first: int = 0,
    status: str = "queued",
    queue: str = "'default'",
    priority: str = "0",
    argument: str = "n",
) -> None:
    """Insert jobs by one statement, without waiting for the disk; *queue* … are expressions of SQL over a number n."""
    ended = status == "complete"
    values = {
        "jobs": at.jobs, "base": _BASE, "first": first, "last": first + count - 1,
        "function": f"'benchmarks.handlers.{function}'", "status": f"'{status}'",
        "queue": queue, "priority": priority, "argument": argument,
        "due": "now() + interval '1 day' + n * interval '1 second'" if status == "scheduled" else "now()",
        "attempts": 1 if ended else 0, "started": "now()" if ended else "null::timestamptz",
    }  # fmt: skip
    at.execute("set synchronous_commit = off")
    at.execute(_FILL.format(**values))
    if ended:
        at.execute(
            f"""insert into {at.executions} (job_id, attempt, status, started_at, completed_at)
                select id, 1, 'complete', started_at, completed_at from {at.jobs}
                where id between %s and %s""",
            [job_id(first), job_id(first + count - 1)],
        )
    at.execute("reset synchronous_commit")


def settle_tables(at: Installation) -> None:
    """Begin each measurement alike: statistics, no dirty pages."""
    at.execute(f"vacuum analyze {at.jobs}")
    at.execute(f"vacuum analyze {at.executions}")
    at.execute("checkpoint")


def wait_for(at: Installation, text: str, params: Any = None, *, seconds: float = 600.0, every: float = 0.1) -> None:
    """Ask until the answer is true."""
    until = time.monotonic() + seconds
    while not at.execute(text, params)[0][0]:
        if time.monotonic() > until:
            raise TimeoutError(text)
        time.sleep(every)


def say(text: str) -> None:
    """Tell the person who waits; the table alone goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def markdown(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join(_cell(value) for value in row) + " |")
    sys.stdout.flush()


def _cell(value: object) -> str:
    if isinstance(value, float):
        if value != value:  # noqa: PLR0124  # NaN: not to be had here
            return "-"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def target(what: str, value: float, limit: float, *, at_least: bool) -> None:
    """Say whether a target is met."""
    met = value >= limit if at_least else value <= limit
    print(f"\n{what}: {value:.3g}, wanted {'>=' if at_least else '<='} {limit:g}: {'met' if met else 'MISSED'}")
    sys.stdout.flush()


def room_for(dsn: str, size: int) -> bool:
    """Whether the disk has room for so many bytes, as far as can be seen: a server elsewhere is trusted."""
    host = conninfo.conninfo_to_dict(dsn).get("host") or "localhost"
    if not isinstance(host, str) or not host.startswith(("/", "127.", "localhost")):
        say(f"cannot see the disk of {host}; {size / 1e9:.1f} GB will be written there")
        return True
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < size:
        print(
            f"\nThe disk is too small: {size / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; try less --rows."
        )
    return free >= size
