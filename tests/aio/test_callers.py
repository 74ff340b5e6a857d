"""`_conn` joins the caller's transaction, whatever library it comes from, and leaves the connection as it was."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row
from sqlalchemy import orm
from sqlalchemy.ext import asyncio as sa_asyncio

import pgwerk
from pgwerk import EnqueueError, EnqueueParams, Group, JobStatus, Retry
from pgwerk.aio import Werk

WORK = "tests.contrib.handlers.work"


@dataclass
class Caller:
    """An application's transaction: what it passes as `_conn`, and what it can do itself."""

    conn: Any
    driver: Any
    execute: Callable[[str], Awaitable[Any]]
    commit: Callable[[], Awaitable[Any]]
    rollback: Callable[[], Awaitable[Any]]


@asynccontextmanager
async def with_psycopg(dsn: str, **kwargs: Any) -> AsyncIterator[Caller]:
    async with await psycopg.AsyncConnection.connect(dsn, **kwargs) as connection:
        if connection.autocommit:
            _ = await connection.execute("begin")

        async def execute(text: str) -> Any:
            cursor = await connection.execute(text.encode())
            return await cursor.fetchall() if cursor.description else None

        yield Caller(connection, connection, execute, connection.commit, connection.rollback)


@asynccontextmanager
async def with_asyncpg(
    dsn: str, *, pooled: bool = False, codecs: bool = False, plain: bool = False
) -> AsyncIterator[Caller]:
    async with AsyncExitStack() as stack:
        if pooled:
            pool = await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=1, max_size=1))
            connection: Any = await stack.enter_async_context(pool.acquire())
        else:
            connection = await asyncpg.connect(dsn)
            stack.push_async_callback(connection.close)
        if codecs:
            await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
            await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str)
        transaction = connection.transaction()
        commit, rollback = transaction.commit, transaction.rollback
        if plain:
            await connection.execute("begin")

            async def commit() -> None:
                await connection.execute("commit")

            async def rollback() -> None:
                await connection.execute("rollback")

        else:
            await transaction.start()
        yield Caller(connection, connection, connection.fetch, commit, rollback)


def _engine(dsn: str, driver: str) -> sa_asyncio.AsyncEngine:
    return sa_asyncio.create_async_engine(dsn.replace("postgresql://", f"postgresql+{driver}://"))


def _executing(conn: Any) -> Callable[[str], Awaitable[Any]]:
    async def execute(text: str) -> Any:
        result = await conn.execute(sa.text(text))
        return result.all() if result.returns_rows else None

    return execute


@asynccontextmanager
async def with_session(dsn: str, driver: str, *, scoped: bool = False) -> AsyncIterator[Caller]:
    engine = _engine(dsn, driver)
    maker = sa_asyncio.async_sessionmaker(engine)
    session: Any = sa_asyncio.async_scoped_session(maker, lambda: 1) if scoped else maker()
    raw = await (await session.connection()).get_raw_connection()
    yield Caller(session, raw.driver_connection, _executing(session), session.commit, session.rollback)
    await session.close()
    await engine.dispose()


@asynccontextmanager
async def with_connection(dsn: str, driver: str) -> AsyncIterator[Caller]:
    engine = _engine(dsn, driver)
    async with engine.connect() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        yield Caller(connection, raw, _executing(connection), connection.commit, connection.rollback)
    await engine.dispose()


CALLERS: dict[str, Callable[[str], Any]] = {
    "psycopg": with_psycopg,
    "psycopg-autocommit": lambda dsn: with_psycopg(dsn, autocommit=True, row_factory=dict_row),
    "asyncpg": with_asyncpg,
    "asyncpg-of-a-pool": lambda dsn: with_asyncpg(dsn, pooled=True),
    "asyncpg-with-codecs": lambda dsn: with_asyncpg(dsn, codecs=True),
    "asyncpg-begun-in-sql": lambda dsn: with_asyncpg(dsn, plain=True),
    "session-psycopg": lambda dsn: with_session(dsn, "psycopg"),
    "session-asyncpg": lambda dsn: with_session(dsn, "asyncpg"),
    "scoped-session": lambda dsn: with_session(dsn, "psycopg", scoped=True),
    "connection-psycopg": lambda dsn: with_connection(dsn, "psycopg"),
    "connection-asyncpg": lambda dsn: with_connection(dsn, "asyncpg"),
}
EACH = pytest.mark.parametrize("kind", CALLERS)


@asynccontextmanager
async def calling(kind: str, app: Werk) -> AsyncIterator[Caller]:
    """A transaction of this kind, over a migrated schema."""
    await app.connect()
    async with CALLERS[kind](app.dsn) as caller:
        yield caller


async def count(app: Werk) -> int:
    return len(await app.list_jobs(limit=2000))


@EACH
async def test_commit_brings_it(app: Werk, kind: str) -> None:
    async with calling(kind, app) as caller:
        job = await app.enqueue(WORK, 1, text="ünïcode 'quoted' %s {x} $1", _conn=caller.conn, _meta={"a": [1, None]})
        assert job is not None
        assert await count(app) == 0
        await caller.commit()
        found = await app.get_job(job)
        assert found.payload == {"args": [1], "kwargs": {"text": "ünïcode 'quoted' %s {x} $1"}}
        assert found.meta == {"a": [1, None]}
        assert (found.scheduled_at, found.enqueued_at) == (job.scheduled_at, job.enqueued_at)


@EACH
async def test_rollback_takes_it(app: Werk, kind: str) -> None:
    async with calling(kind, app) as caller:
        assert await app.enqueue(WORK, _conn=caller.conn) is not None
        assert len(await app.enqueue_many([EnqueueParams(WORK)] * 3, _conn=caller.conn)) == 3
        await caller.rollback()
    assert await count(app) == 0


@EACH
async def test_every_option(app: Werk, kind: str) -> None:
    async with calling(kind, app) as caller:
        parent = await app.enqueue(WORK, _conn=caller.conn)
        assert parent is not None
        job = await app.enqueue(
            WORK, None, [1, {"a": None}], _conn=caller.conn, _queue="mail", _priority=-32768,
            _delay=timedelta(hours=1), _retry=Retry(3, intervals=[1, 2.5], no_retry=(ValueError,)), _timeout=1.5,
            _key="k:ü", _meta={"a": [True, None]}, _group=Group("g", limit=2), _ttl=60, _result_ttl=0,
            _on_failure=WORK,
        )  # fmt: skip
        child = await app.enqueue(WORK, _conn=caller.conn, _depends_on=parent)
        assert job is not None
        assert child is not None
        await caller.commit()
    found = await app.get_job(job)
    assert (found.status, found.priority, found.queue) == (JobStatus.SCHEDULED, -32768, "mail")
    assert (found.timeout_secs, found.max_attempts, found.meta) == (1.5, 3, {"a": [True, None]})
    assert found.expires_at is not None
    assert (await app.get_job(child)).status is JobStatus.WAITING
    assert await app.get_job_dependencies(child) == [parent.id]


@EACH
async def test_many(app: Werk, kind: str) -> None:
    specs = [
        EnqueueParams(WORK, args=(n,), priority=n % 7, key=f"k{n % 1100}", meta={"n": n} if n % 2 else None)
        for n in range(1200)
    ]
    async with calling(kind, app) as caller:
        made = await app.enqueue_many(specs, _conn=caller.conn)
        assert [job is None for job in made] == [n >= 1100 for n in range(1200)]
        assert await count(app) == 0
        await caller.commit()
    assert await count(app) == 1100


@EACH
async def test_a_duplicate_key_or_a_refused_call_aborts_nothing(app: Werk, kind: str) -> None:
    assert await app.enqueue(WORK, _key="once") is not None
    async with calling(kind, app) as caller:
        assert await app.enqueue(WORK, _conn=caller.conn, _key="once") is None
        with pytest.raises(EnqueueError, match="does not exist"):
            _ = await app.enqueue(WORK, _conn=caller.conn, _depends_on="0190a5a0-0000-7000-8000-000000000000")
        with pytest.raises(EnqueueError):
            _ = await app.enqueue(WORK, _conn=caller.conn, _priority=10**6)
        assert await app.enqueue(WORK, _conn=caller.conn, _key="twice") is not None
        await caller.commit()
    assert await count(app) == 2


@EACH
async def test_the_connection_is_left_as_it_was(app: Werk, kind: str) -> None:
    async with calling(kind, app) as caller:
        _ = await caller.execute("set local application_name = 'mine'")
        before = await _facts(caller)
        assert await app.enqueue(WORK, _conn=caller.conn) is not None
        assert await app.enqueue_many([EnqueueParams(WORK)] * 3, _conn=caller.conn) != []
        assert await _facts(caller) == before
        await caller.rollback()
    assert await count(app) == 0


async def _facts(caller: Caller) -> list[Any]:
    names = ("autocommit", "row_factory", "isolation_level")
    (row,) = await caller.execute("select pg_current_xact_id()::text as id, current_setting('application_name') as n")
    return [*(getattr(caller.driver, name, None) for name in names), *(dict(row) if isinstance(row, dict) else row)]


@EACH
@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_the_job_can_run_at_once_inside(app: Werk, kind: str, end: str) -> None:
    async with calling(kind, app) as caller:
        job = await app.enqueue(WORK, 7, _conn=caller.conn, _sync=True, _meta={"a": 1}, _retry=Retry(2, [5]))
        assert job is not None
        assert (job.status, job.result, job.meta) == (JobStatus.COMPLETE, [7, {}], {"a": 1})
        assert await count(app) == 0
        await getattr(caller, end)()
    assert await count(app) == (end == "commit")


# What the wrong app is told ---------------------------------------------------------


async def test_a_synchronous_connection_is_for_the_synchronous_app(app: Werk, dsn: str) -> None:
    engine = sa.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    with psycopg.connect(dsn) as plain, engine.connect() as connection, orm.Session(engine) as session:
        scoped = orm.scoped_session(orm.sessionmaker(engine))
        for conn in (plain, connection, session, scoped, "default"):
            with pytest.raises(EnqueueError, match=r"app\.sync\.enqueue"):
                _ = await app.enqueue(WORK, _conn=conn)
        assert not connection.in_transaction()
        assert not session.in_transaction()
    engine.dispose()


async def test_an_asynchronous_connection_is_for_the_asyncio_app(dsn: str, schema: str) -> None:
    app = pgwerk.Werk(dsn, schema=schema)
    for kind in ("psycopg", "asyncpg", "asyncpg-of-a-pool", "session-psycopg", "connection-asyncpg", "scoped-session"):
        async with CALLERS[kind](dsn) as caller:
            with pytest.raises(EnqueueError, match=r"await app\.aio\.enqueue"):
                _ = app.enqueue(WORK, _conn=caller.conn)
            await caller.rollback()
    app.close()


async def test_something_else_is_refused(app: Werk) -> None:
    for conn in (object(), 5, app):
        with pytest.raises(EnqueueError, match="_conn takes"):
            _ = await app.enqueue(WORK, _conn=conn)
