"""The asyncio executor: walks operations over pooled psycopg connections."""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from contextlib import nullcontext, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, pq
from psycopg.rows import tuple_row

from pgwerk._core import backoff
from pgwerk._core.names import Names
from pgwerk._core.operation import Copy, Operation, Procedure, Request, Rows, Statement, Walk
from pgwerk._postgres.adapting import AsyncPlainCursor
from pgwerk._postgres.callers import AsyncForeign
from pgwerk._postgres.connecting import Unanswered, forget_prepared, refused
from pgwerk._postgres.driver import (
    NOT_COPIED,
    POOL_TIMEOUT,
    TRIES,
    UNREADABLE,
    Renderer,
    can_copy,
    lost,
    no_records,
    read_leniently,
    rolled_back,
    sendable,
    translated,
)
from pgwerk._postgres.settings import UNLIMITED, pin
from pgwerk.aio.connector import Connector, OwnConnection
from pgwerk.aio.loops import PerLoop
from pgwerk.aio.pool import Pool

R = TypeVar("R")
T = TypeVar("T")

CANCEL_SECONDS = 2.0
"""How long Postgres may take to cancel a query, and the query to end."""


class Executor:
    """Run operations; one for each app, used by any number of tasks and loops, on both sides of a fork."""

    def __init__(
        self,
        dsn: str,
        names: Names,
        *,
        pool_size: int = 10,
        pooled: bool = True,
        pool_timeout: float = POOL_TIMEOUT,
        name: str = "werk",
    ) -> None:
        self._connector = Connector(dsn, name)
        self.conninfo = self._connector.conninfo
        self.where = self._connector.where
        self._render = Renderer(names)
        self._pool_size = pool_size if pooled else None
        self._pool_timeout = pool_timeout
        self._pools: PerLoop[Pool] = PerLoop(Pool.close)

    # Connections ------------------------------------------------------------------

    async def connect(self) -> OwnConnection:
        """Open a connection of one's own, in autocommit; raises ConnectionFailed."""
        return await self._connector.connect()

    @property
    def prepare(self) -> bool:
        """Whether statements may be prepared; a pooler between us and Postgres forbids it."""
        return self._connector.prepare

    @property
    def _pool(self) -> Pool:
        """The pool of this loop, made at first use."""
        return self._pools.get() or self._pools.put(Pool(self._connector, self._pool_size, self._pool_timeout))

    async def close(self) -> None:
        """Close the pool of this loop; the next use opens another."""
        pool = self._pools.pop()
        if pool is not None:
            pool.close()

    # Running ----------------------------------------------------------------------

    async def run(self, op: Operation[R], connection: AsyncConnection[Any] | AsyncForeign | None = None) -> R:
        """Run *op*. On a *connection* of yours it joins the transaction you have open, and is never repeated.

        Raises the operation's own errors, ConnectionFailed, DatabaseError.
        """
        if connection is not None:
            return await self.run_on(connection, op)
        pool = self._pool
        if getattr(op, "alone", False):
            pool.drop_idle()
            return await self._run_alone(op)
        for attempt in range(1, TRIES + 1):
            try:
                async with pool.lease() as own:
                    return await self._walk(own, op)
            except psycopg.Error as error:
                gone = lost(error)
                if gone:
                    # The others may be, too.
                    pool.drop_idle()
                again = rolled_back(error) or (gone and op.repeatable and not isinstance(error, Unanswered))
                if not again or attempt == TRIES:
                    raise refused(error, self.where, pool.idle) from error
            await asyncio.sleep(backoff.reconnect(attempt, random.random()))
        raise AssertionError("unreachable")

    async def _run_alone(self, op: Operation[R]) -> R:
        """Run maintenance that takes no transaction, on a connection whose settings nobody uses afterwards."""
        own = await self.connect()
        try:
            if not own.pooled:
                _ = await own.execute(*pin(UNLIMITED))
            return await self._walk(own, op)
        except psycopg.Error as error:
            raise refused(error, self.where) from error
        finally:
            # Without an await, which could be cancelled.
            own.pgconn.finish()

    async def run_on(self, connection: AsyncConnection[Any] | AsyncForeign, op: Operation[R]) -> R:
        """Run *op* once on this connection."""
        try:
            if isinstance(connection, AsyncConnection):
                # To its end: a transaction of psycopg's that is cut off while it begins or ends is left open.
                return await _unhurt(connection, self._walk(connection, op))
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
        own = (op.atomic or (self._connector.explicit and not getattr(op, "alone", False))) and connection.autocommit
        async with connection.transaction() if own else nullcontext():
            walk = Walk(op)
            while walk.request:
                try:
                    replies = await self._perform(connection, walk.request)
                except psycopg.Error as error:
                    walk.fail(error)
                else:
                    walk.reply([asked.read(rows) for asked, rows in zip(walk.request, replies, strict=True)])
            return walk.result

    async def _perform(self, connection: AsyncConnection[Any] | AsyncForeign, request: Request) -> Sequence[Rows]:
        if request[0].copy is not None:
            return await self._copy_or_insert(connection, request[0].copy)
        if not isinstance(connection, AsyncConnection):
            return [await connection.rows(*self._render(statement)) for statement in request]
        if connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            # Inside a pipeline of the caller's: psycopg would sync at each nesting.
            cursors = [await self._send(connection, statement) for statement in request]
            return [await self._await(cursor) for cursor in cursors]
        if isinstance(connection, OwnConnection) and connection.patience is not None:
            return await connection.in_time(self._exchange(connection, request))
        return await self._exchange(connection, request)

    async def _exchange(self, connection: AsyncConnection[Any], request: Request) -> Sequence[Rows]:
        if len(request) == 1:
            if request[0].texts and isinstance(connection, OwnConnection) and connection.prepare_threshold is not None:
                rows = await self._prepared(connection, request[0])
                if rows is not None:
                    return [rows]
            return [await self._fetch(await self._send(connection, request[0]))]
        if not isinstance(connection, OwnConnection):
            try:
                return await self._pipelined(connection, request)
            except BaseException:
                forget_prepared(connection)
                raise
        try:
            return await _unhurt(connection, self._pipelined(connection, request))
        except BaseException:
            # It is not lent again.
            connection.torn = True
            raise

    async def _copy_or_insert(self, connection: AsyncConnection[Any] | AsyncForeign, copy: Copy) -> Sequence[Rows]:
        if isinstance(connection, OwnConnection) and can_copy(connection):
            with suppress(*NOT_COPIED):
                return [await connection.in_time(self._copy(connection, copy))]
        return await self._perform(connection, (copy.instead(),))

    async def _copy(self, connection: OwnConnection, copy: Copy) -> Rows:
        # A transaction, or a savepoint in that of the operation.
        async with connection.transaction(), AsyncPlainCursor(connection) as cursor:
            async with cursor.copy(self._render.text(copy.sql)) as sink:
                for lines in copy.lines():
                    await sink.write(lines)
            return await self._fetch(await self._send(connection, copy.then))

    async def _prepared(self, connection: OwnConnection, statement: Statement[Any]) -> "Rows | None":
        """Execute a prepared statement; None when that has to be done in the usual way."""
        text, params = sendable(connection.pgconn, *self._render(statement))
        if params is None:
            return None
        return await connection.wait(connection.prepared.exchange(connection.pgconn, text, params))

    async def _pipelined(self, connection: AsyncConnection[Any], request: Request) -> Sequence[Rows]:
        async with connection.pipeline():
            cursors = [await self._send(connection, statement) for statement in request]
        return [await self._fetch(cursor) for cursor in cursors]

    async def _send(self, connection: AsyncConnection[Any], statement: Statement[Any]) -> AsyncCursor[Any]:
        # A cursor class and row factory of our own: a caller's connection may carry others.
        cursor = AsyncPlainCursor(connection, row_factory=tuple_row)
        text, params = sendable(connection.pgconn, *self._render(statement))
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
