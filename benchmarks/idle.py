"""What a worker without work costs: transactions, CPU and memory of each type."""

import time

from benchmarks.installation import Installation
from benchmarks.running import KINDS, Kind, worker
from benchmarks.scenario import Size, markdown, say, target
from benchmarks.server_cost import cost

COLUMNS = (
    "worker", "transactions/s each", "CPU %", "server CPU %", "processes",
    "resident MB each", "PSS MB each", "PSS MB in all",
)  # fmt: skip
SETTLE = 12.0
"""Seconds until what a worker did at its start is counted: an idle backend reports its statistics after ten."""
QUICK_SETTLE = 3.0
MOST_QUERIES = 1.0
MOST_CPU = 1.0


def run(dsn: str, size: Size) -> None:
    seconds, settle = float(size.pick(60, 5)), QUICK_SETTLE if size.quick else SETTLE
    shown: list[tuple[object, ...]] = []
    queries, busy = [0.0], [0.0]
    with Installation(dsn) as at:
        own, _, own_server = _watched(at, seconds)
    shown.append(("nobody (the server by itself)", own, "-", own_server, "-", "-", "-", "-"))
    for kind in KINDS:
        if kind.missing:
            shown.append((kind.name, "not there yet", *["-"] * 6))
            continue
        say(f"{kind.name}, {seconds:.0f} s …")
        row = _measured(dsn, kind, settle, seconds, own)
        queries.append(row[1])
        busy.append(row[2])
        shown.append(row)
    markdown(f"Idle workers over {seconds:.0f} s, default settings", COLUMNS, shown)
    if size.quick:
        print("\nToo quick: the transactions are those of the start, which the server counts late.")
    target("most transactions a second of any", max(queries), MOST_QUERIES, at_least=False)
    target("most CPU % of any", max(busy), MOST_CPU, at_least=False)


def _measured(
    dsn: str, kind: Kind, settle: float, seconds: float, own: float
) -> tuple[str, float, float, float, int, str, str, float]:
    with Installation(dsn) as at, worker(at, kind) as (running,):
        time.sleep(settle)
        before = running.cpu()
        rate, elapsed, server = _watched(at, seconds)
        spent = running.cpu() - before
        memory = running.memory()
    resident = ", ".join(f"{one[0]:.0f}" for one in memory)
    shares = ", ".join(f"{one[1]:.0f}" for one in memory)
    total = sum(one[1] for one in memory)
    workers = int(kind.settings.get("processes", 1)) if kind.type == "Worker" else 1
    return (
        kind.name,
        max(0.0, rate - own) / workers,
        spent / elapsed * 100,
        server,
        len(memory),
        resident,
        shares,
        total,
    )


def _watched(at: Installation, seconds: float) -> tuple[float, float, float]:
    """Transactions a second of the database (without ours), the seconds they took, CPU % of the server."""
    before, began = cost(at), time.monotonic()
    time.sleep(seconds)
    after, elapsed = cost(at), time.monotonic() - began
    # Ours: what `cost` asks, three times.
    return (after.commits - before.commits - 3) / elapsed, elapsed, (after.cpu - before.cpu) / elapsed * 100
