"""Plans at scale: with a large backlog in front, the hot statements walk indexes and sort nothing of it.

PGWERK_PLAN_ROWS sets how many rows are in front (200,000 by default).
"""

import json
import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgwerk._core.cursor import Range
from pgwerk._core.names import Names
from pgwerk._core.operation import Statement
from pgwerk._core.operations import migrate
from pgwerk._core.outcome import Succeeded
from pgwerk._core.procedures.bulk import LAST_ID
from pgwerk._core.statements import (
    admin,
    claims,
    dependents,
    permits,
    queries,
    recovery,
    running,
    settling,
    upkeep,
    workers,
)
from pgwerk._core.statements.enqueue import insert
from pgwerk._postgres.adapting import PlainCursor
from pgwerk._postgres.driver import Renderer
from pgwerk.sync.executor import Executor
from tests.database.builders import OTHER, WORKER, entry, new
from tests.fixtures.database import drop_schema

ROWS = int(os.environ.get("PGWERK_PLAN_ROWS", "200000"))
NO_ID = "00000000-0000-0000-0000-000000000000"
pytestmark = pytest.mark.timeout(120 + ROWS // 2000)

FILL = """
insert into {jobs} (function, queue, priority, status, scheduled_at, group_key, expires_at, completed_at, blocked)
select 'app.work', 'q' || n % 8, (n % 5)::int, s.status,
       now() + case when s.status = 'scheduled' then 1 else -1 end * (n % 86400) * interval '1 second',
       case when s.status = 'queued' and n % 50 = 0 then 'g' || n % 100 end,
       case when n % 20 = 0 then now() + interval '1 day' end,
       case when s.status in ('complete', 'failed', 'aborted') then now() end,
       s.status = 'queued' and n % 50 = 0
from generate_series(1, %s) n
cross join lateral (select (array['queued', 'queued', 'queued', 'queued', 'complete', 'complete', 'complete',
                                  'scheduled', 'waiting', 'failed'])[1 + n %% 10]) s(status)
"""


class Scale:
    """A large table, and the plans of statements on it."""

    def __init__(self, executor: Executor, pg: psycopg.Connection[Any], names: Names) -> None:
        self.executor = executor
        self.pg = pg
        self.names = names
        self.render = Renderer(names)

    def plan(self, statement: Statement[Any]) -> list[dict[str, Any]]:
        """All nodes of the plan, after the statement has run and was rolled back."""
        text, params = self.render(statement)
        with self.pg.transaction(force_rollback=True):
            self.pg.execute("set local plan_cache_mode = force_generic_plan")
            cursor = PlainCursor(self.pg)  # it knows what is packed
            row = cursor.execute(b"explain (analyze, buffers, format json) " + text, params).fetchone()
        assert row is not None
        found: list[dict[str, Any]] = []
        _flatten(row[0][0]["Plan"], found)
        return found

    def on_jobs(self, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The nodes that read the table of jobs."""
        return [
            node
            for node in nodes
            if node.get("Relation Name") == f"{self.names.prefix}_jobs" and "Scan" in node["Node Type"]
        ]


def _flatten(node: dict[str, Any], found: list[dict[str, Any]]) -> None:
    found.append(node)
    for child in node.get("Plans", ()):
        _flatten(child, found)


@pytest.fixture(scope="module")
def scale(dsn: str) -> Iterator[Scale]:
    name = f"plans_{os.getpid()}"
    names = Names(name)
    executor = Executor(dsn, names)
    try:
        executor.run(migrate.migrate())
        with psycopg.connect(dsn, autocommit=True) as pg:
            fill = names.render(FILL.replace("n % ", "n %% "), with_params=True)
            pg.execute("set synchronous_commit = off")
            pg.execute(fill.encode(), [ROWS])
            edges = "insert into {job_deps} (job_id, depends_on) select id, %s from {jobs} where status = 'waiting'"
            pg.execute(names.render(edges, with_params=True).encode(), [NO_ID])
            pg.execute(names.render("vacuum (analyze) {jobs}", with_params=False).encode())
            pg.execute(names.render("vacuum (analyze) {job_deps}", with_params=False).encode())
            yield Scale(executor, pg, names)
    finally:
        executor.close()
        drop_schema(dsn, name)


def check(scale: Scale, statement: Statement[Any], *, touches: int = 2000) -> list[dict[str, Any]]:
    """Assert that *statement* reads the jobs through indexes only, and sorts and reads no more than a batch."""
    nodes = scale.plan(statement)
    for node in scale.on_jobs(nodes):
        shown = json.dumps(node, indent=1)[:2000]
        assert node["Node Type"] in ("Index Scan", "Index Only Scan", "Bitmap Heap Scan"), shown
        rows = node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0)
        assert rows <= touches, shown
    for node in nodes:
        if "Sort" in node["Node Type"]:
            assert node["Actual Rows"] * node["Actual Loops"] <= touches, node
            assert node.get("Sort Space Type") != "Disk", node
    return nodes


CLAIM = "_pgwerk_jobs_claim"
EIGHT = [f"q{n}" for n in range(8)]


@pytest.mark.parametrize("queues", [["q0"], EIGHT], ids=["one queue", "eight queues"])
@pytest.mark.parametrize(("in_turns", "each"), [(False, None), (True, None), (False, 20)])
def test_a_claim_walks_one_index_range_of_each_queue(
    scale: Scale, queues: list[str], in_turns: bool, each: int | None
) -> None:
    nodes = check(scale, claims.claim(queues, 50, WORKER, in_turns=in_turns, each=each))
    walked = [node for node in nodes if node.get("Index Name") == CLAIM]
    assert walked
    # Running jobs stay in the index until they are settled; other tests leave some.
    assert all(node.get("Rows Removed by Filter", 0) <= 300 for node in walked)
    # What the lateral sub-select gives is in order already: nothing between the scan and its limit sorts.
    assert not any(
        "Sort" in child["Node Type"] for node in nodes if node["Node Type"] == "LockRows" for child in node["Plans"]
    )


def test_a_claim_behind_a_cursor_begins_there(scale: Scale) -> None:
    """In the middle of the backlog, and in front of it only where the priority is higher."""
    query = (
        "select id::text, -priority, scheduled_at from {jobs} where queue = 'q3' and lane = 'ready' order by 2, 3, 1"
    )
    rows = scale.pg.execute(scale.names.render(query, with_params=False).encode()).fetchall()
    id_, rank, time = rows[len(rows) // 2]
    assert rank > rows[0][1]
    behind = Range("q3", 0, first=(rank, time, id_))
    (walk,) = [n for n in check(scale, claims.claim([behind], 50, WORKER)) if n.get("Index Name") == CLAIM]
    assert "ROW(" in walk["Index Cond"]
    assert "below" in walk["Index Cond"]
    assert walk["Actual Rows"] == 50
    assert walk.get("Rows Removed by Filter", 0) == 0
    none = Range("q3", 0, below=rows[0][1])
    (walk,) = [n for n in check(scale, claims.claim([none], 50, WORKER), touches=0) if n.get("Index Name") == CLAIM]
    assert walk["Actual Rows"] == 0


def test_a_claim_from_an_empty_queue_reads_nothing(scale: Scale) -> None:
    nodes = check(scale, claims.claim(["nothing here"], 50, WORKER), touches=0)
    assert sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in nodes[:1]) < 40


def test_closing_finds_its_rows_by_their_ids(scale: Scale) -> None:
    taken = scale.executor.run(claims.claim(["q1"], 100, WORKER)).jobs
    assert len(taken) == 100
    entries = [entry(one, Succeeded("1")) for one in taken]
    for whole in (False, True):
        nodes = check(scale, running.close(entries, WORKER, whole=whole))
        assert {node.get("Index Name") for node in scale.on_jobs(nodes)} <= {"_pgwerk_jobs_pkey", None}
    reports = [(one.job.id, one.claim) for one in taken]
    check(scale, settling.lock_claimed(reports))
    check(scale, running.touch(reports))
    check(scale, running.aborting([one.job.id for one in taken]))


def test_promoting_reads_only_what_is_due(scale: Scale) -> None:
    nodes = check(scale, upkeep.promote(1000))
    assert {node.get("Index Name") for node in scale.on_jobs(nodes)} <= {"_pgwerk_jobs_scheduled", "_pgwerk_jobs_pkey"}


def test_dependents_are_found_by_their_parents(scale: Scale) -> None:
    parents = [new().id for _ in range(100)]
    nodes = scale.plan(dependents.late_dependents(parents))
    (read,) = [node for node in nodes if node.get("Relation Name") == "_pgwerk_job_deps"]
    assert "Index" in read["Node Type"] or read["Node Type"] == "Bitmap Heap Scan"
    check(scale, dependents.lock_dependents(parents))


def test_recovery_finds_jobs_through_their_claims(scale: Scale) -> None:
    scale.executor.run(workers.register(OTHER, "w", ["q2"], {}, 25))
    scale.executor.run(claims.claim(["q2"], 100, OTHER))
    check(scale, recovery.overdue(500))
    check(scale, workers.lost_claims(25, 100, 60))
    check(scale, running.stray(OTHER, []))
    check(scale, permits.leaked_permits(500))
    check(scale, upkeep.settled_claims(500))
    check(scale, workers.roster())


def test_active_rows_that_no_claim_knows_are_looked_for_in_steps(scale: Scale) -> None:
    place, read = recovery.FIRST_RUNNABLE, 0
    for _ in range(3):
        nodes = check(scale, recovery.unclaimed(3600.0, place, 500), touches=500)
        (walk,) = [node for node in nodes if node.get("Index Name") == CLAIM]
        read += walk["Actual Rows"]
        last = scale.executor.run(recovery.unclaimed(3600.0, place, 500)).last
        assert last is not None
        assert last > place
        place = last
    assert read == 1500
    check(scale, recovery.lock_unclaimed([place[3]], 3600.0), touches=1)
    check(scale, recovery.lock_overdue([(place[3], 1)]), touches=1)


def test_retention_and_expiry_read_only_what_is_due(scale: Scale) -> None:
    check(scale, upkeep.past(upkeep.LONG_AGO, NO_ID, 500))


def test_a_sweep_reads_on_in_steps(scale: Scale) -> None:
    """However many are past their time, wait or are blocked, and whatever can be done about them."""
    with scale.pg.transaction(force_rollback=True):
        past = "update {jobs} set expires_at = now() - interval '1 hour' where expires_at is not null"
        scale.pg.execute(scale.names.render(past, with_params=False).encode())
        check(scale, upkeep.past(upkeep.LONG_AGO, NO_ID, 500))
        check(scale, upkeep.waiting(NO_ID, 500))
        check(scale, permits.blocked_groups("", 500))


def test_bulk_procedures_read_on_by_id(scale: Scale) -> None:
    check(scale, admin.requeueable(None, None, 1e11, NO_ID, 500))
    check(scale, admin.cancellable(None, LAST_ID, 500))
    check(scale, admin.purgeable(["complete", "failed", "aborted"], 0.0, NO_ID, 500))


def test_groups_are_readied_by_their_key(scale: Scale) -> None:
    nodes = check(scale, permits.ready(["g0", "g50"]), touches=ROWS // 50)
    assert "_pgwerk_jobs_blocked" in {node.get("Index Name") for node in nodes}


def test_enqueueing_reads_no_table(scale: Scale) -> None:
    order = new(1, key="some key")
    assert scale.on_jobs(scale.plan(insert(order.values, always_tell=False))) == []


def test_pages_of_lists_are_read_from_an_index(scale: Scale) -> None:
    last = scale.executor.run(queries.list_jobs(queries.Filter(), 1, 1000, json.loads))[0].id
    check(scale, queries.list_jobs(queries.Filter(), 50, 0, json.loads))
    check(scale, queries.list_jobs(queries.Filter(before=last), 50, 0, json.loads))
    check(scale, queries.list_jobs(queries.Filter(statuses=["failed"]), 50, 0, json.loads))
    check(scale, queries.get(last, json.loads))
    check(scale, queries.get_by_key("some key", json.loads))
