"""What a careful person writes by hand: claim and settle a batch at a time, two statements, one pipeline, one commit.

The tables are pgwerk's, the rows end as pgwerk's do (with an execution row each), and the settle is fenced by the
worker. It has no threads, groups, retries, timeouts, notifications or recovery: it is the upper bound, not a peer.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from benchmarks.jobs import nothing

HANDLERS: dict[str, Callable[..., Any]] = {"benchmarks.jobs.nothing": nothing}
WORKER = "00000000-0000-7000-8000-000000000001"

CLAIM = """
with picked as materialized (
    select id from {jobs}
    where queue = 'default' and lane = 'ready' and status = 'queued' and scheduled_at <= now()
    order by (-priority::integer), scheduled_at, id
    limit %(count)s
    for update skip locked
)
update {jobs}
set status = 'active', attempts = attempts + 1, worker_id = %(worker)s, started_at = now(), touched_at = now()
where id = any (array(select id from picked))
returning id::text, function, payload::text, attempts
"""

SETTLE = """
with closed as (
    update {jobs} j
    set status = 'complete', result = v.result::jsonb, worker_id = null, completed_at = now()
    from unnest(%(ids)s::uuid[], %(results)s::text[]) as v(id, result)
    where j.id = v.id and j.status = 'active' and j.worker_id = %(worker)s
    returning j.id, j.attempts, j.started_at, j.result
)
insert into {executions} (job_id, attempt, status, worker_id, started_at, completed_at, result)
select id, attempts, 'complete', %(worker)s, started_at, now(), result from closed
"""


def check_plan(connection: psycopg.Connection[Any], claim: bytes) -> None:
    """Refuse to be a slow baseline: the claim must walk the index, in its order, as the schema has it today."""
    rows = connection.execute(b"explain " + claim, {"count": 100, "worker": WORKER}).fetchall()
    plan = "\n".join(row[0] for row in rows)
    if "Sort" in plan or "Seq Scan" in plan:
        raise SystemExit(f"the raw claim does not use the claim index; bring its ORDER BY up to date:\n{plan}")


def turn(
    connection: psycopg.Connection[Any], claim: bytes, settle: bytes, done: dict[str, Any], batch: int
) -> list[Any]:
    """Settle what is done and claim more, in one round trip and one commit."""
    with connection.pipeline():
        if done["ids"]:
            connection.execute(settle, done)
        cursor = connection.execute(claim, {"count": batch, "worker": WORKER})
    return cursor.fetchall()


def run(spec: dict[str, Any], handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Drain the queue and return."""
    names = {"jobs": f"{spec['schema']}._pgwerk_jobs", "executions": f"{spec['schema']}._pgwerk_jobs_executions"}
    claim, settle = CLAIM.format(**names).encode(), SETTLE.format(**names).encode()
    done: dict[str, Any] = {"ids": [], "results": [], "worker": WORKER}
    with psycopg.connect(spec["dsn"], autocommit=True) as connection:
        connection.prepare_threshold = 1
        check_plan(connection, claim)
        while jobs := turn(connection, claim, settle, done, spec["batch"]):
            done = {"ids": [], "results": [], "worker": WORKER}
            for id_, function, payload, _attempt in jobs:
                call = json.loads(payload)
                result: Any = handlers[function](*call.get("args", ()), **call.get("kwargs", {}))
                done["ids"].append(id_)
                done["results"].append(None if result is None else json.dumps(result))


if __name__ == "__main__":
    run(json.loads(sys.argv[1]), HANDLERS)
