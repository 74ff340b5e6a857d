"""How much a worker takes, and what its claims read."""

from typing import Any

import psycopg

from pgwerk import EnqueueParams, ThreadWorker, Werk
from tests.fixtures.workers import Notes, eventually, living_workers, running
from tests.workers import handlers


def count(app: Werk, pg: "psycopg.Connection[Any]", where: str) -> int:
    row = pg.execute(app._app.names.render(f"select count(*) from {{jobs}} where {where}", with_params=False).encode())
    return int(row.fetchone()[0])  # type: ignore[index]


def test_jobs_claimed_ahead_of_slow_ones_go_back(app: Werk, pg: "psycopg.Connection[Any]", notes: Notes) -> None:
    """Quick jobs made it claim hundreds ahead; then come slow ones, which others could run."""
    _ = app.enqueue_many([EnqueueParams(handlers.noop) for _ in range(2000)])
    _ = app.enqueue_many([EnqueueParams(handlers.nap, args=(30,)) for _ in range(500)])
    with running(ThreadWorker, app, concurrency=5, shutdown_timeout=0):
        eventually(lambda: count(app, pg, "status = 'complete'") == 2000)
        eventually(lambda: count(app, pg, "status = 'active'") == 5, 3.0, "a worker that holds what it runs")


def test_a_burst_after_idleness_is_not_read_from_end_to_end_by_every_claim(
    app: Werk, pg: "psycopg.Connection[Any]"
) -> None:
    """Plans that were made when the tables were empty are kept until somebody analyzes them."""
    jobs = 4000
    table = app._app.names.render("{jobs}", with_params=False)
    pg.execute(f"alter table {table} set (autovacuum_enabled = off)".encode())

    def read() -> int:
        query = "select seq_tup_read from pg_stat_user_tables where relid = %s::regclass"
        row = pg.execute(query, [table]).fetchone()
        assert row is not None
        return int(row[0])

    with running(ThreadWorker, app):
        living_workers(app)
        for number in range(20):
            assert app.apply(handlers.add, number, 1, timeout=20) == number + 1
        ordered = app.enqueue_many([EnqueueParams(handlers.noop) for _ in range(jobs)])
        last = ordered[-1]
        assert last is not None
        _ = app.wait_for(last, timeout=30)
    app.close()
    # Connections tell what they have read when they end. A few looks at single jobs are scans, too.
    assert eventually(read) < 8 * jobs
