"""The least that a worker woken by NOTIFY must do: hear, claim one, run it, settle it."""

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

import psycopg

from benchmarks.jobs import ring

CLAIM = """
update {jobs} set status = 'active', attempts = attempts + 1, started_at = now()
where id = (
    select id from {jobs} where queue = 'default' and lane = 'ready' and status = 'queued'
    order by (-priority::integer), scheduled_at, id limit 1 for update skip locked)
returning id::text, payload::text
"""
SETTLE = "update {jobs} set status = 'complete', completed_at = now() where id = %s::uuid"


def run(spec: dict[str, Any], handler: Callable[..., Any]) -> None:
    """Claim and run one job after the other, until terminated."""
    _ = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    names = {"jobs": f"{spec['schema']}._pgwerk_jobs"}
    claim, settle = CLAIM.format(**names).encode(), SETTLE.format(**names).encode()
    with psycopg.connect(spec["dsn"], autocommit=True) as hot, psycopg.connect(spec["dsn"], autocommit=True) as ears:
        hot.prepare_threshold = 1
        ears.execute(f"listen {spec['schema']}".encode())
        run_all(hot, claim, settle, handler)
        for _ in ears.notifies():
            run_all(hot, claim, settle, handler)


def run_all(connection: psycopg.Connection[Any], claim: bytes, settle: bytes, handler: Callable[..., Any]) -> None:
    while rows := connection.execute(claim).fetchall():
        for id_, payload in rows:
            handler(*json.loads(payload)["args"])
            connection.execute(settle, [id_])


if __name__ == "__main__":
    run(json.loads(sys.argv[1]), ring)
