"""The asyncio executor: walks operations over pooled psycopg connections."""

import asyncio
import random
import weakref
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, pq
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pgwerk._connections import AsyncForeign
from pgwerk._core import backoff
from pgwerk._core.operation import Operation, Procedure, Request, Rows, Statement, Walk
from pgwerk._names import Names
from pgwerk._psycopg import (
    POOL_TIMEOUT,
    RETRYABLE,
    TRIES,
    UNREADABLE,
    Renderer,
    all_in_use,
    connection_string,
    finish_if_torn,
    lost,
    no_records,
    read_json,
    read_leniently,
    shown_dsn,
    translated,
)
from pgwerk.aio.loops import PerLoop
from pgwerk.errors import ConnectionFailed

R = TypeVar("R")
T = TypeVar("T")

CANCEL_SECONDS = 2.0
"""How long Postgres may take to cancel a query, and the query to end."""

Pool = AsyncConnectionPool[AsyncConnection[Any]]


class Executor:
    """Run operations; one for each app, used by any number of tasks and loops, made anew after a fork."""

    def __init__(self, dsn: str, names: Names, *, pool_size: int = 10, pooled: bool = True, name: str = "werk") -> None:
        self.conninfo = connection_string(dsn, name)
        self.where = shown_dsn(dsn)
        self._render = Renderer(names)
        self._pool_size = pool_size
        self._pooled = pooled
        self._pools: PerLoop[Pool] = PerLoop(_abandon)
        self._suspects: weakref.WeakSet[Pool] = weakref.WeakSet()
        """Pools of which a connection was lost: their others may be, too."""
        self.prepare = True
        """Whether statements may be prepared; a pooler between us and Postgres forbids it."""

    # Connections ------------------------------------------------------------------

    async def connect(self) -> AsyncConnection[Any]:
        """Open a connection of one's own, in autocommit; raises ConnectionFailed."""
        try:
            connection = await AsyncConnection.connect(self.conninfo, autocommit=True)
        except psycopg.Error as error:
            raise translated(error, self.where) from error
        try:
            await self._configure(connection)
        except BaseException:
            # Cancelled or cut off: nobody else knows of it.
            await connection.close()
            raise
        return connection

    async def _configure(self, connection: AsyncConnection[Any]) -> None:
        row = await (await connection.execute("select pg_backend_pid()")).fetchone()
        if row is not None and row[0] != connection.info.backend_pid:
            # Somebody stands between us and the server; the next statement may reach another one.
            self.prepare = False
        if not self.prepare:
            connection.prepare_threshold = None

    async def _pool_now(self) -> Pool:
        pool = self._pools.get()
        if pool is None:
            # The pool would go on trying in the background; a wrong DSN should say so at once.
            await (await self.connect()).close()
            pool = self._pools.get()  # another task may have been as quick
        if pool is None:
            made: Pool = AsyncConnectionPool(
                self.conninfo,
                min_size=0,
                max_size=self._pool_size,
                max_idle=60.0,
                timeout=POOL_TIMEOUT,
                reconnect_timeout=5.0,
                num_workers=1,
                open=False,
                name="pgwerk",
                kwargs={"autocommit": True},
                configure=self._configure,
                check=None,
            )
            pool = self._pools.put(made)
        if pool.closed:
            await pool.open()
        return pool

    async def _connection(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        if not self._pooled:
            return await self.connect()
        pool = await self._pool_now()
        if pool in self._suspects:
            # The pool would hand out the other dead ones, and then wait: say at once whether Postgres is there.
            await (await self.connect()).close()
            self._suspects.discard(pool)
            # To its end even if we are cancelled: connections that are out to be checked must come back.
            await asyncio.shield(pool.check())
        return _Lease(pool)

    def _suspect(self, error: psycopg.Error) -> None:
        """Check the other connections of the pool before the next use, if *error* is the loss of one."""
        pool = self._pools.get()
        if pool is not None and lost(error) and not isinstance(error, PoolTimeout):
            self._suspects.add(pool)

    async def close(self) -> None:
        """Close the pool of this loop; the next use opens another."""
        pool = self._pools.pop()
        if pool is not None:
            self._suspects.discard(pool)
            await pool.close()

    # Running ----------------------------------------------------------------------

    async def run(self, op: Operation[R], connection: AsyncConnection[Any] | AsyncForeign | None = None) -> R:
        """Run *op*. On a *connection* of yours it joins the transaction you have open, and is never repeated.

        Raises the operation's own errors, ConnectionFailed, DatabaseError.
        """
        if connection is not None:
            return await self.run_on(connection, op)
        for attempt in range(1, TRIES + 1):
            try:
                async with await self._connection() as own:
                    return await self._walk(own, op)
            except psycopg.Error as error:
                self._suspect(error)
                again = isinstance(error, RETRYABLE) or (lost(error) and op.repeatable)
                if isinstance(error, PoolTimeout):
                    await (await self.connect()).close()  # says why, if the reason is Postgres
                    raise ConnectionFailed(all_in_use(self._pool_size, self.where)) from error
                if not again or attempt == TRIES:
                    raise translated(error, self.where) from error
            await asyncio.sleep(backoff.reconnect(attempt, random.random()))
        raise AssertionError("unreachable")

    async def run_on(self, connection: AsyncConnection[Any] | AsyncForeign, op: Operation[R]) -> R:
        """Run *op* once on this connection."""
        try:
            return await self._walk(connection, op)
        except psycopg.Error as error:
            raise translated(error, self.where) from error

    async def perform(self, steps: Procedure[R], connection: AsyncConnection[Any] | AsyncForeign | None = None) -> R:
        """Run each operation that a procedure asks for, in a transaction of its own."""
        try:
            op = next(steps)
            while True:
                try:
                    result = await self.run(op, connection)
                except Exception as error:  # noqa: BLE001  # the procedure decides
                    op = steps.throw(error)
                else:
                    op = steps.send(result)
        except StopIteration as stop:
            value: R = stop.value
            return value

    async def _walk(self, connection: AsyncConnection[Any] | AsyncForeign, op: Operation[R]) -> R:
        # With autocommit off, the transaction is the caller's and is only joined. With it on, transaction() is
        # BEGIN and COMMIT, or a savepoint inside a transaction of the caller's.
        own = op.atomic and connection.autocommit
        async with connection.transaction() if own else nullcontext():
            walk = Walk(op)
            while walk.request:
                try:
                    replies = await self._perform(connection, walk.request)
                except psycopg.Error as error:
                    walk.fail(error)
                else:
                    walk.reply(replies)
            return walk.result

    async def _perform(self, connection: AsyncConnection[Any] | AsyncForeign, request: Request) -> Sequence[Rows]:
        if not isinstance(connection, AsyncConnection):
            return [await connection.rows(*self._render(statement)) for statement in request]
        if connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            # Inside a pipeline of the caller's: psycopg would sync at each nesting.
            cursors = [await self._send(connection, statement) for statement in request]
            return [await self._await(cursor) for cursor in cursors]
        if len(request) == 1:
            return [await self._fetch(await self._send(connection, request[0]))]
        return await _unhurt(connection, self._pipelined(connection, request))

    async def _pipelined(self, connection: AsyncConnection[Any], request: Request) -> Sequence[Rows]:
        async with connection.pipeline():
            cursors = [await self._send(connection, statement) for statement in request]
        return [await self._fetch(cursor) for cursor in cursors]

    async def _send(self, connection: AsyncConnection[Any], statement: Statement[Any]) -> AsyncCursor[Any]:
        # A cursor class and row factory of our own: a caller's connection may carry others.
        cursor = AsyncCursor(connection, row_factory=tuple_row)
        read_json(cursor)
        text, params = self._render(statement)
        return await cursor.execute(text, params, binary=statement.binary)

    @staticmethod
    async def _fetch(cursor: AsyncCursor[Any]) -> Rows:
        # Not `description`, which describes every column.
        result = cursor.pgresult
        if result is None or not result.nfields:
            return []
        try:
            return await cursor.fetchall()
        except UNREADABLE:
            return read_leniently(cursor)

    @staticmethod
    async def _await(cursor: AsyncCursor[Any]) -> Rows:
        # Only fetching waits for the answer; before it, there is no telling whether it has rows.
        try:
            return await cursor.fetchall()
        except psycopg.ProgrammingError as error:
            if no_records(error):
                return []
            raise
        except UNREADABLE:
            if cursor.pgresult is None or cursor.pgresult.status != pq.ExecStatus.TUPLES_OK:
                raise
            return read_leniently(cursor)


async def _unhurt(connection: AsyncConnection[Any], pipelined: Coroutine[Any, Any, T]) -> T:
    """Await what happens in a pipeline; our cancellation cancels the query on the server instead.

    psycopg does not survive a cancellation inside a pipeline: it waits for answers that have come, forgets that it
    was cancelled, or believes that statements are prepared.
    """
    task = asyncio.create_task(pipelined)
    try:
        _ = await asyncio.wait([task])
    except asyncio.CancelledError:
        ending = asyncio.create_task(_end(connection, task))
        while not ending.done():
            # Until it has ended: a cancel request that is late would hit the next user of the connection.
            with suppress(asyncio.CancelledError):
                _ = await asyncio.wait([ending])
        raise
    return task.result()


async def _end(connection: AsyncConnection[Any], task: "asyncio.Task[Any]") -> None:
    """End what happens in a pipeline; close the connection if it does not end."""
    with suppress(psycopg.Error):
        await connection.cancel_safe(timeout=CANCEL_SECONDS)
    _ = await asyncio.wait([task], timeout=CANCEL_SECONDS)
    if not task.done():
        connection.pgconn.finish()
        _ = task.cancel()
        _ = await asyncio.wait([task], timeout=CANCEL_SECONDS)
    if task.done() and not task.cancelled():
        # Looked at, so that it is not reported as overlooked.
        _ = task.exception()


class _Lease(AbstractAsyncContextManager[AsyncConnection[Any]]):
    """A connection of the pool for a block. What is begun in it is ended in it: no commit or rollback is asked for."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> AsyncConnection[Any]:
        self._connection = await self._pool.getconn()
        return self._connection

    async def __aexit__(self, *_error: object) -> None:
        # One that was left in a transaction all the same is rolled back by the pool.
        finish_if_torn(self._connection.pgconn)
        await self._pool.putconn(self._connection)


def _abandon(pool: Pool) -> None:
    """Drop a pool whose loop is closed, or goes on without us: nobody can await its end."""
    # Otherwise its finaliser would make a coroutine that nobody awaits.
    vars(pool)["_closed"] = True
    for connection in list(vars(pool).get("_pool", ())):
        connection.pgconn.finish()
