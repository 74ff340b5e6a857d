"""The asyncio executor: walks operations over pooled psycopg connections."""

import asyncio
import os
import random
import weakref
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, pq
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from pgwerk._core import backoff
from pgwerk._core.operation import Operation, Procedure, Request, Rows, Statement, Walk
from pgwerk._names import Names
from pgwerk._psycopg import (
    POOL_TIMEOUT,
    RETRYABLE,
    TRIES,
    Renderer,
    all_in_use,
    connection_string,
    lost,
    no_records,
    read_json,
    shown_dsn,
    translated,
)
from pgwerk.errors import ConnectionFailed

R = TypeVar("R")


Pools = dict[asyncio.AbstractEventLoop, AsyncConnectionPool[AsyncConnection[Any]]]
"""A pool belongs to the loop it was opened on."""


class Executor:
    """Run operations; one for each app, used by any number of tasks and loops, made anew after a fork."""

    def __init__(self, dsn: str, names: Names, *, pool_size: int = 10, pooled: bool = True, name: str = "werk") -> None:
        self.conninfo = connection_string(dsn, name)
        self.where = shown_dsn(dsn)
        self._render = Renderer(names)
        self._pool_size = pool_size
        self._pooled = pooled
        self._pools: Pools = {}
        self._pid = os.getpid()
        self.prepare = True
        """Whether statements may be prepared; a pooler between us and Postgres forbids it."""
        _ = weakref.finalize(self, _abandon_all, self._pools)

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

    async def _pool_now(self) -> AsyncConnectionPool[AsyncConnection[Any]]:
        if self._pid != os.getpid():
            # A fork: the parent's connections and tasks are not ours. Neither used nor closed.
            _abandon_all(self._pools)
            self._pid = os.getpid()
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            # The pool would go on trying in the background; a wrong DSN should say so at once.
            await (await self.connect()).close()
            pool = self._pools.get(loop)  # another task may have been as quick
        if pool is None:
            for gone in [other for other in list(self._pools) if other.is_closed()]:
                _abandon(self._pools.pop(gone), finish=True)
            pool = self._pools[loop] = AsyncConnectionPool(
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
        if pool.closed:
            await pool.open()
        return pool

    async def _connection(self) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        if not self._pooled:
            return await self.connect()
        return (await self._pool_now()).connection()

    async def close(self) -> None:
        """Close the pool of this loop; the next use opens another."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if self._pid == os.getpid() and pool is not None:
            await pool.close()

    # Running ----------------------------------------------------------------------

    async def run(self, op: Operation[R], connection: AsyncConnection[Any] | None = None) -> R:
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
                again = isinstance(error, RETRYABLE) or (lost(error) and op.repeatable)
                if isinstance(error, PoolTimeout):
                    await (await self.connect()).close()  # says why, if the reason is Postgres
                    raise ConnectionFailed(all_in_use(self._pool_size, self.where)) from error
                if not again or attempt == TRIES:
                    raise translated(error, self.where) from error
            await asyncio.sleep(backoff.reconnect(attempt, random.random()))
        raise AssertionError("unreachable")

    async def run_on(self, connection: AsyncConnection[Any], op: Operation[R]) -> R:
        """Run *op* once on this connection."""
        try:
            return await self._walk(connection, op)
        except psycopg.Error as error:
            raise translated(error, self.where) from error

    async def perform(self, steps: Procedure[R], connection: AsyncConnection[Any] | None = None) -> R:
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

    async def _walk(self, connection: AsyncConnection[Any], op: Operation[R]) -> R:
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

    async def _perform(self, connection: AsyncConnection[Any], request: Request) -> Sequence[Rows]:
        if connection.info.pipeline_status != pq.PipelineStatus.OFF:
            # Inside a pipeline of the caller's: psycopg would sync at each nesting.
            cursors = [await self._send(connection, statement) for statement in request]
            return [await self._await(cursor) for cursor in cursors]
        if len(request) == 1:
            return [await self._fetch(await self._send(connection, request[0]))]
        async with connection.pipeline():
            cursors = [await self._send(connection, statement) for statement in request]
        return [await self._fetch(cursor) for cursor in cursors]

    async def _send(self, connection: AsyncConnection[Any], statement: Statement[Any]) -> AsyncCursor[Any]:
        # A cursor class and row factory of our own: a caller's connection may carry others.
        cursor = AsyncCursor(connection, row_factory=tuple_row)
        read_json(cursor)
        text, params = self._render(statement)
        return await cursor.execute(text, params)

    @staticmethod
    async def _fetch(cursor: AsyncCursor[Any]) -> Rows:
        return await cursor.fetchall() if cursor.description is not None else []

    @staticmethod
    async def _await(cursor: AsyncCursor[Any]) -> Rows:
        # Only fetching waits for the answer; before it, there is no telling whether it has rows.
        try:
            return await cursor.fetchall()
        except psycopg.ProgrammingError as error:
            if no_records(error):
                return []
            raise


def _abandon_all(pools: Pools) -> None:
    for pool in list(pools.values()):
        _abandon(pool, finish=False)
    pools.clear()


def _abandon(pool: AsyncConnectionPool[Any], *, finish: bool) -> None:
    """Drop a pool whose loop is closed, or on the other side of a fork: nobody can await its end."""
    # Otherwise its finaliser would make a coroutine that nobody awaits.
    vars(pool)["_closed"] = True
    if finish:
        for connection in list(vars(pool).get("_pool", ())):
            connection.pgconn.finish()
