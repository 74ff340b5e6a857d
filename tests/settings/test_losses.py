"""Postgres ends connections for many reasons; each is seen as what it is, and no enqueue is lost or doubled by it."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgwerk import ThreadWorker, Werk
from pgwerk import aio as pgwerk_aio
from pgwerk._core.operation import Statement, nothing, scalar
from pgwerk._core.operations.settle import release_waiting
from pgwerk._postgres.driver import lost
from pgwerk.errors import ConnectionFailed, DatabaseError
from tests.exactness.helpers import enqueued
from tests.fixtures.workers import eventually
from tests.settings.conftest import Hostile

WORK = "tests.settings.handlers.work"
# As Postgres would, where a pooler keeps us from asking for none; a moment each, so that each has a connection.
LIMIT = Statement("select set_config('idle_session_timeout', '300ms', false), pg_sleep(0.1)", {}, nothing)
SHOW = Statement("select current_setting('idle_session_timeout')", {}, scalar)


@pytest.mark.parametrize(
    "state", ["08006", "08P01", "57P01", "57P02", "57P03", "57P04", "57P05", "25P03", "25P04", "53300"]
)
def test_a_connection_that_is_gone_is_lost(state: str) -> None:
    assert lost(psycopg.errors.lookup(state)("gone"))


@pytest.mark.parametrize("state", ["57014", "40001", "25006", "25P02", "55P03", "42P01", "22P02"])
def test_a_statement_that_is_refused_is_not(state: str) -> None:
    assert not lost(psycopg.errors.lookup(state)("no"))


def idle_backends(pg: Any, dsn: str) -> int:
    database = dsn.rpartition("/")[2]
    row = pg.execute(
        "select count(*) from pg_stat_activity where datname = %s and backend_type = 'client backend'", [database]
    ).fetchone()
    return int(row[0])


def test_idle_connections_that_postgres_ended_cost_no_enqueue(hostile: Hostile, pg: Any) -> None:
    dsn = hostile()
    with Werk(dsn) as app, concurrent.futures.ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: app._runtime.backend.run(LIMIT), range(6)))
        eventually(lambda: idle_backends(pg, dsn) == 0, what="the end of all idle connections")
        made = [enqueued(app.enqueue(WORK, n)).id for n in range(12)]
        assert sorted(job.id for job in app.list_jobs()) == sorted(made)


def test_idle_connections_that_postgres_ended_cost_no_enqueue_of_the_asyncio_app(hostile: Hostile, pg: Any) -> None:
    async def main(dsn: str) -> None:
        async with pgwerk_aio.Werk(dsn) as app:
            await asyncio.gather(*(app._runtime.backend.run(LIMIT) for _ in range(6)))
            await asyncio.to_thread(eventually, lambda: idle_backends(pg, dsn) == 0)
            made = [enqueued(await app.enqueue(WORK, n)).id for n in range(12)]
            assert sorted(job.id for job in await app.list_jobs()) == sorted(made)

    asyncio.run(main(hostile()))


def test_our_own_connections_may_be_idle(hostile: Hostile, pg: Any) -> None:
    dsn = hostile({"idle_session_timeout": "100ms"})
    with Werk(dsn) as app:
        for _ in range(2):
            assert app.enqueue(WORK) is not None
            row = app._runtime.backend.run(SHOW)
            assert row == "0"


@pytest.mark.parametrize("error", [ConnectionFailed("gone"), DatabaseError("no", "55P03")])
def test_what_fails_after_the_commit_is_no_failure_of_the_enqueue(
    app: Werk, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    parent = enqueued(app.enqueue(WORK))
    run = app._runtime.backend.run

    def failing(op: Any, *args: Any) -> Any:
        if getattr(op, "name", "") == release_waiting([]).name:
            raise error
        return run(op, *args)

    with monkeypatch.context() as patched:
        patched.setattr(app._runtime.backend, "run", failing)
        child = enqueued(app.enqueue(WORK, _depends_on=parent))
    assert child.status == "waiting"
    assert len(app.list_jobs()) == 2
    ThreadWorker(app, burst=True).run()
    assert app.get_job(child).status == "complete"


@pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout"])
def test_a_migration_waits_for_another_whatever_the_limits_of_the_role(hostile: Hostile, pg: Any, limit: str) -> None:
    dsn = hostile({limit: "300ms"})
    with psycopg.connect(dsn) as other, concurrent.futures.ThreadPoolExecutor(1) as thread:
        other.execute("select pg_advisory_xact_lock(hashtextextended('pgwerk', 7235))")
        app = Werk(dsn)
        connecting = thread.submit(app.connect)
        waited = (
            "select extract(epoch from clock_timestamp() - query_start) > 0.6 from pg_stat_activity"
            " where datname = %s and wait_event_type = 'Lock'"
        )
        eventually(lambda: (pg.execute(waited, [dsn.rpartition("/")[2]]).fetchone() or [False])[0])
        other.rollback()
        connecting.result(20)
        assert app.enqueue(WORK) is not None
        app.close()


def test_many_first_connects_at_once_in_serializable(hostile: Hostile) -> None:
    dsn = hostile({"default_transaction_isolation": "serializable"})
    apps = [Werk(dsn) for _ in range(8)]

    def connect(app: Werk) -> Any:
        app.connect()
        return enqueued(app.enqueue(WORK)).id

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        made = list(threads.map(connect, apps))
    assert len({*made, *(job.id for job in apps[0].list_jobs())}) == 8
    for app in apps:
        app.close()


def _describe(call: Callable[[], Any]) -> str:
    with pytest.raises(DatabaseError) as caught:
        call()
    return str(caught.value)


def test_limits_and_refusals_are_said_in_words(hostile: Hostile) -> None:
    dsn = hostile()
    with Werk(dsn) as app, psycopg.connect(dsn, autocommit=True) as holder, psycopg.connect(dsn) as conn:
        job = enqueued(app.enqueue(WORK, _key="k"))
        conn.read_only = True
        assert "read-only" in _describe(lambda: app.enqueue(WORK, _conn=conn))
        conn.rollback()
        conn.read_only = False
        holder.execute("begin")
        holder.execute("insert into pgwerk._pgwerk_jobs (function, key) values ('f', 'held')")
        conn.execute("set local statement_timeout = '50ms'")
        assert "statement_timeout" in _describe(lambda: app.enqueue(WORK, _conn=conn, _key="held"))
        holder.execute("rollback")
        assert [one.id for one in app.list_jobs()] == [job.id]
