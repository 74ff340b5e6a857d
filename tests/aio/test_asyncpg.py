"""What is particular to asyncpg: no autocommit to turn off, numbered parameters, codecs, errors."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import psycopg
import pytest

from pgwerk import EnqueueParams
from pgwerk._postgres.foreign.asyncpg import numbered, psycopg_error
from pgwerk.aio import Werk
from pgwerk.errors import ConnectionFailed, DatabaseError, SchemaVersionMismatch, WerkError

WORK = "tests.contrib.handlers.work"
REFUSED = "tests.contrib.handlers.refused"


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def count(app: Werk) -> int:
    return len(await app.list_jobs(limit=5000))


async def test_without_a_transaction_it_is_there_at_once(app: Werk, dsn: str) -> None:
    async with connected(dsn) as connection:
        assert (await app.enqueue(WORK, _conn=connection)).id
        assert await count(app) == 1
        _ = await app.enqueue_many([EnqueueParams(WORK)] * 3, _conn=connection)
        assert await count(app) == 4
        assert not connection.is_in_transaction()


async def test_several_statements_are_all_or_nothing(app: Werk, dsn: str, pg: psycopg.Connection) -> None:
    await app.connect()
    # The second chunk of a thousand is refused by a rule of this test's table.
    pg.execute(f"alter table {app.schema}._pgwerk_jobs add check (function <> '{REFUSED}')".encode())
    specs = [EnqueueParams(WORK)] * 1000 + [EnqueueParams(REFUSED)]
    async with connected(dsn) as connection:
        with pytest.raises(DatabaseError, match="check constraint") as caught:
            _ = await app.enqueue_many(specs, _conn=connection)
        assert caught.value.sqlstate == "23514"
        assert await count(app) == 0
        async with connection.transaction():
            _ = await app.enqueue_many(specs[:3], _conn=connection)
            with pytest.raises(DatabaseError):
                _ = await app.enqueue_many(specs[-2:], _conn=connection)
            assert await connection.fetchval("select 1") == 1, "the savepoint kept the transaction usable"
        assert await count(app) == 3


@pytest.mark.usefixtures("unmigrated")
async def test_errors_say_what_is_wrong(app: Werk, dsn: str, schema: str, pg: psycopg.Connection) -> None:
    async with connected(dsn) as connection:
        bare = Werk(dsn, schema=schema, auto_migrate=False)
        with pytest.raises(SchemaVersionMismatch):
            _ = await bare.enqueue(WORK, _conn=connection)
        await app.connect()
        async with connection.transaction():
            busy = asyncio.create_task(connection.execute("select pg_sleep(0.2)"))
            await asyncio.sleep(0)
            with pytest.raises(DatabaseError, match="another operation"):
                _ = await app.enqueue(WORK, _conn=connection)
            _ = await busy
        broken = connection.transaction()
        await broken.start()
        with pytest.raises(asyncpg.DivisionByZeroError):
            _ = await connection.execute("select 1/0")
        with pytest.raises(DatabaseError) as caught:
            _ = await app.enqueue(WORK, _conn=connection)
        assert caught.value.sqlstate == "25P02"
        await broken.rollback()
        assert (await app.enqueue(WORK, _conn=connection)).id
        pid = connection.get_server_pid()
        pg.execute("select pg_terminate_backend(%s, 5000)", [pid])
        with pytest.raises(ConnectionFailed):
            _ = await app.enqueue(WORK, _conn=connection)
        with pytest.raises(WerkError):
            _ = await app.enqueue(WORK, _conn=connection)


async def test_a_connection_given_back_to_its_pool_says_so(app: Werk, dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            assert (await app.enqueue(WORK, _conn=connection)).id
        with pytest.raises(WerkError):
            _ = await app.enqueue(WORK, _conn=connection)
        with pytest.raises(WerkError):
            _ = await app.enqueue_many([EnqueueParams(WORK)] * 2, _conn=connection)


async def test_without_prepared_statements(app: Werk, dsn: str) -> None:
    """As it is configured for PgBouncer."""
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    for _ in range(3):
        assert (await app.enqueue(WORK, 1, _conn=connection, _meta={"a": 1})).id
    await connection.close()
    assert await count(app) == 3


@pytest.mark.parametrize(
    ("text", "texts", "query", "names"),
    [
        ("select %(a)s, %(b)s, %(a)s", (), "select $1, $2, $1", ("a", "b")),
        ("select %(a)s::jsonb, %(a)s", (), "select $1::text::jsonb, $2", ("a", "a")),
        ("select %(a)s::uuid, id = %(a)s", ("a",), "select $1::text::uuid, id = $2", ("a", "a")),
        ("%(a)s::uuid[] %(b)s::jsonb[]", ("a",), "$1::text::uuid[] $2::text[]::jsonb[]", ("a", "b")),
        ("%(a)s::double precision * 100 %% 7", (), "$1::double precision * 100 % 7", ("a",)),
        ("select %(a)s::jsonb as x", (), "select $1::text::jsonb as x", ("a",)),
    ],
)
def test_parameters_are_numbered(text: str, texts: tuple[str, ...], query: str, names: tuple[str, ...]) -> None:
    assert numbered(text, frozenset(texts)) == (query, names)


def test_an_unknown_sqlstate_is_kept() -> None:
    class Strange(asyncpg.PostgresError):
        sqlstate = "ZZ999"

    assert psycopg_error(Strange("strange"), closed=False).sqlstate == "ZZ999"
    assert isinstance(psycopg_error(OSError("gone"), closed=True), psycopg.OperationalError)
