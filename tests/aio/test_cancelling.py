"""Cancelling any await leaves nothing half done, no broken connection, and an app that works."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from pgwerk import EnqueueParams
from pgwerk.aio import Werk
from tests.aio import handlers
from tests.fixtures.inside import inside
from tests.fixtures.waiting import until

ROUNDS = 150


async def cancelled_at_random(draw: random.Random, make: Callable[[int], Awaitable[Any]]) -> list[int]:
    """Begin something again and again and cancel it at some moment; which of them ended."""
    ended = []
    for number in range(ROUNDS):
        task = asyncio.ensure_future(make(number))
        for _ in range(draw.randint(0, 30)):
            await asyncio.sleep(0)
        if draw.random() < 0.5:
            await asyncio.sleep(draw.random() * 0.004)
        _ = task.cancel()
        done, _pending = await asyncio.wait([task], timeout=20)
        assert done, "the cancellation was lost"
        if not task.cancelled():
            _ = task.result()
            ended.append(number)
    return ended


async def nothing_is_stuck(app: Werk, pg: psycopg.Connection) -> None:
    """No connection is in a transaction, and as many as the pool has can be used at once."""
    sql = """
        select pid, state, wait_event, query from pg_stat_activity
        where state <> 'idle' and pid <> pg_backend_pid() and query like %s
    """

    def stuck() -> list[Any]:
        return pg.execute(sql, [f"%{app.schema}%"]).fetchall()

    with suppress(TimeoutError):
        await until(lambda: not stuck())
    assert stuck() == []
    found = await asyncio.gather(*(app.list_jobs(limit=5000) for _ in range(app.config.pool_size * 2)))
    assert len({len(jobs) for jobs in found}) == 1


def keys(pg: psycopg.Connection, app: Werk) -> set[str]:
    text = app._app.names.render("select key from {jobs} where key is not null", with_params=False)
    return {key for (key,) in pg.execute(text.encode())}


@pytest.mark.parametrize("seed", range(3))
async def test_an_enqueue_is_there_or_not(app: Werk, pg: psycopg.Connection, seed: int) -> None:
    await app.connect()
    ended = await cancelled_at_random(random.Random(seed), lambda n: app.enqueue(handlers.echo, n, _key=f"{n}"))
    assert {f"{number}" for number in ended} <= keys(pg, app)
    await nothing_is_stuck(app, pg)


@pytest.mark.parametrize("seed", range(3))
async def test_a_bulk_is_there_whole_or_not_at_all(app: Werk, pg: psycopg.Connection, seed: int) -> None:
    await app.connect()
    parent = await app.enqueue(handlers.echo)

    def many(number: int) -> Awaitable[Any]:
        return app.enqueue_many([
            EnqueueParams(handlers.echo, key=f"{number} a"),
            EnqueueParams(handlers.echo, key=f"{number} b", depends_on=parent),
            EnqueueParams(handlers.echo, key=f"{number} c"),
        ])  # fmt: skip

    ended = await cancelled_at_random(random.Random(seed), many)
    found = keys(pg, app)
    whole = {key.split()[0] for key in found}
    assert found == {f"{number} {letter}" for number in whole for letter in "abc"}
    assert {str(number) for number in ended} <= whole
    await nothing_is_stuck(app, pg)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_callers_transaction_stays_the_callers(
    app: Werk, pg: psycopg.Connection, dsn: str, driver: str, seed: int
) -> None:
    import asyncpg

    await app.connect()
    committed = []

    async def with_psycopg(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            async with connection.transaction():
                _ = await app.enqueue(handlers.echo, _key=f"{number} a", _conn=connection)
                params = [EnqueueParams(handlers.echo, key=f"{number} {letter}") for letter in "bc"]
                _ = await app.enqueue_many(params, _conn=connection)
            committed.append(number)

    async def with_asyncpg(number: int) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction():
                _ = await app.enqueue(handlers.echo, _key=f"{number} a", _conn=connection)
                params = [EnqueueParams(handlers.echo, key=f"{number} {letter}") for letter in "bc"]
                _ = await app.enqueue_many(params, _conn=connection)
            committed.append(number)
        finally:
            connection.terminate()

    draw = random.Random(seed)
    for number in range(60):
        task = asyncio.create_task((with_psycopg if driver == "psycopg" else with_asyncpg)(number))
        await asyncio.sleep(draw.random() * 0.03)
        _ = task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    found = keys(pg, app)
    whole = {key.split()[0] for key in found}
    assert found == {f"{number} {letter}" for number in whole for letter in "abc"}
    assert {str(number) for number in committed} <= whole
    await nothing_is_stuck(app, pg)


@pytest.mark.parametrize("seed", range(2))
async def test_a_cancelled_call_leaves_a_connection_that_can_roll_back(app: Werk, dsn: str, seed: int) -> None:
    """The same connection all the time: after each cancellation its owner goes on with it."""
    await app.connect()
    draw = random.Random(seed)
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        for number in range(60):
            params = [EnqueueParams(handlers.echo, key=f"{number} {letter}") for letter in "abc"]
            task = asyncio.create_task(app.enqueue_many(params, _conn=connection))
            await asyncio.sleep(draw.random() * 0.003)
            _ = task.cancel()
            with suppress(asyncio.CancelledError):
                _ = await task
            await connection.rollback()
        assert await app.enqueue(handlers.echo, _key="last", _conn=connection)
        await connection.commit()
    assert [job.key for job in await app.list_jobs()] == ["last"]


async def test_waiting_can_be_cancelled_at_any_moment(app: Werk, pg: psycopg.Connection) -> None:
    job = await app.enqueue(handlers.echo)
    assert job is not None
    draw = random.Random(1)
    for close in (False, False, True):
        _ = await cancelled_at_random(draw, lambda _: app.wait_for(job, poll_interval=0.001))
        await nothing_is_stuck(app, pg)
        if close:
            await app.close()
    assert not inside(app).room._corners.get()
    _ = await cancelled_at_random(draw, lambda n: app.enqueue(handlers.echo, n, _key=f"{n}", _sync=True))
    text = app._app.names.render(
        "select status, count(*) from {jobs} where key is not null group by 1", with_params=False
    )
    found = {row[0] for row in pg.execute(text.encode())}
    assert found <= {"complete", "aborted"}, "what has begun is recorded"
    await nothing_is_stuck(app, pg)


async def test_a_wait_that_hangs_on_a_lock_can_be_cancelled(app: Werk, pg: psycopg.Connection, dsn: str) -> None:
    job = await app.enqueue(handlers.echo)
    assert job is not None
    text = app._app.names.render("select from {jobs} for update", with_params=False).encode()
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like %s"

    def hang() -> bool:
        row = pg.execute(waiting, [f"%{app.schema}%"]).fetchone()
        return row is not None and row[0] == 1

    async with await psycopg.AsyncConnection.connect(dsn) as locker:
        _ = await locker.execute(text)
        task = asyncio.create_task(app.wait_for(job))
        await until(hang)
        _ = task.cancel()
        done, _pending = await asyncio.wait([task], timeout=20)
        assert done
        assert task.cancelled()
        await until(lambda: not hang())
        await locker.rollback()
    await nothing_is_stuck(app, pg)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_a_call_cancelled_twice_leaves_no_transaction_open_on_an_idle_connection(
    app: Werk, dsn: str, driver: str
) -> None:
    """In autocommit, where the transaction is ours: the caller would not know that there is one to end."""
    import asyncpg

    await app.connect()
    draw = random.Random(3)
    connection: Any = (
        await asyncpg.connect(dsn)
        if driver == "asyncpg"
        else await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    )
    try:
        for number in range(60):
            params = [EnqueueParams(handlers.echo, key=f"{number} {letter}") for letter in "abc"]
            task = asyncio.create_task(app.enqueue_many(params, _conn=connection))
            await asyncio.sleep(draw.random() * 0.004)
            for _ in range(2):
                _ = task.cancel()
                await asyncio.sleep(0)
            with suppress(asyncio.CancelledError):
                _ = await task
            open_ = (
                connection.is_in_transaction()
                if driver == "asyncpg"
                else connection.info.transaction_status.name != "IDLE"
            )
            assert not open_, number
        assert await app.enqueue(handlers.echo, _key="last", _conn=connection)
    finally:
        await connection.close()
