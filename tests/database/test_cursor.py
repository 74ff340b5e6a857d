"""Claims while somebody holds an old snapshot, so that nothing that is over can be cleaned away."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgwerk._core.cursor import Cursor
from pgwerk._core.operations.turn import Turn, turn
from pgwerk._core.outcome import Succeeded
from pgwerk._core.statements import claims
from pgwerk._postgres.driver import Renderer
from tests.database.builders import WORKER, Desk, entry, new

JOBS = 6000
BATCH = 100


@contextmanager
def old_snapshot(dsn: str) -> Iterator[None]:
    """Somebody's long transaction."""
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("select count(*) from pg_class")
        yield


def pages(desk: Desk, pg: psycopg.Connection, where: Any) -> int:
    """How many pages a claim would touch."""
    text, params = Renderer(desk.run.names)(claims.claim(where, BATCH, WORKER))
    with pg.transaction(force_rollback=True):
        row = pg.execute(b"explain (analyze, buffers, format json) " + text, params).fetchone()
    assert row is not None
    walk = next(node for node in flat(row[0][0]["Plan"]) if node.get("Index Name") == "_pgwerk_jobs_claim")
    return int(walk["Shared Hit Blocks"] + walk["Shared Read Blocks"])


def flat(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from flat(child)


@pytest.mark.postgres
def test_claims_behind_a_cursor_do_not_step_over_what_is_over(desk: Desk, dsn: str, pg: psycopg.Connection) -> None:
    desk.live(seconds=3600)
    for _ in range(JOBS // 1000):
        desk.send([new() for _ in range(1000)])
    with old_snapshot(dsn):
        cursor, ran = Cursor(), 0
        closing: list[Any] = []
        retiring: list[int] = []
        before = pages(desk, pg, ["default"])
        # The clock stands still: the cursor is not reset by time.
        while ran < JOBS - 2 * BATCH:
            ranges = cursor.ranges(["default"], 0.0)
            ask = Turn(WORKER, ranges, BATCH, closing=closing, retiring=retiring)
            claim = desk.run(turn(ask)).claim
            assert claim is not None
            jobs = claim.jobs
            assert len(jobs) == BATCH
            cursor.claimed(claim.last, 0.0, full=True)
            closing, retiring = [entry(one, Succeeded()) for one in jobs], [jobs[0].claim]
            ran += len(jobs)
        assert pages(desk, pg, cursor.ranges(["default"], 0.0)) <= before + 2 * BATCH
        assert pages(desk, pg, ["default"]) >= before + JOBS // 10, "from the front it would step over all of them"
