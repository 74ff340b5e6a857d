"""The synchronous executor: walks operations over pooled psycopg connections."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, Cursor, pq
from psycopg.rows import tuple_row

from pgwerk._core import backoff
from pgwerk._core.names import Names
from pgwerk._core.operation import Copy, Operation, Procedure, Request, Rows, Statement, Walk, walk_through
from pgwerk._postgres.adapting import PlainCursor
from pgwerk._postgres.callers import Foreign
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
from pgwerk._postgres.own_connection import OwnConnection
from pgwerk._postgres.settings import UNLIMITED, pin
from pgwerk.sync.connector import Connector
from pgwerk.sync.pool import Pool

R = TypeVar("R")


class Executor:
    """Run operations; one for each app, used by any number of threads, on both sides of a fork."""

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
        self._pool = Pool(self._connector, pool_size if pooled else None, pool_timeout)

    # Connections ------------------------------------------------------------------

    def connect(self) -> OwnConnection:
        """Open a connection of one's own, in autocommit; raises ConnectionFailed."""
        return self._connector.connect()

    @property
    def prepare(self) -> bool:
        """Whether statements may be prepared; a pooler between us and Postgres forbids it."""
        return self._connector.prepare

    def drop_idle(self) -> None:
        """Close the connections of the pool that nobody uses."""
        self._pool.drop_idle()

    def close(self) -> None:
        """Close the pool; the next use opens another."""
        self._pool.close()

    # Running ----------------------------------------------------------------------

    def run(self, op: Operation[R], connection: Connection[Any] | Foreign | None = None) -> R:
        """Run *op*. On a *connection* of yours it joins the transaction you have open, and is never repeated.

        Raises the operation's own errors, ConnectionFailed, DatabaseError.
        """
        if connection is not None:
            return self.run_on(connection, op)
        if getattr(op, "alone", False):
            return self._run_alone(op)
        for attempt in range(1, TRIES + 1):
            try:
                with self._pool.lease() as own:
                    return self._walk(own, op)
            except psycopg.Error as error:
                gone = lost(error)
                if gone:
                    # The others may be, too.
                    self._pool.drop_idle()
                again = rolled_back(error) or (gone and op.repeatable and not isinstance(error, Unanswered))
                if not again or attempt == TRIES:
                    raise refused(error, self.where, self._pool.idle) from error
            time.sleep(backoff.reconnect(attempt, random.random()))
        raise AssertionError("unreachable")

    def _run_alone(self, op: Operation[R]) -> R:
        """Run maintenance that takes no transaction, on a connection whose settings nobody uses afterwards."""
        self._pool.drop_idle()
        with closing(self.connect()) as own:
            try:
                if not own.pooled:
                    _ = own.execute(*pin(UNLIMITED))
                return self._walk(own, op)
            except psycopg.Error as error:
                raise refused(error, self.where) from error

    def run_on(
        self, connection: Connection[Any] | Foreign, op: Operation[R], meanwhile: Callable[[], None] | None = None
    ) -> R:
        """Run *op* once on this connection; *meanwhile* is called while Postgres works on each request of it."""
        try:
            return self._walk(connection, op, meanwhile)
        except psycopg.Error as error:
            raise translated(error, self.where) from error

    def perform(self, steps: Procedure[R], connection: Connection[Any] | Foreign | None = None) -> R:
        """Run each operation that a procedure asks for, in a transaction of its own."""
        return walk_through(steps, lambda op: self.run(op, connection))

    def _walk(
        self, connection: Connection[Any] | Foreign, op: Operation[R], meanwhile: Callable[[], None] | None = None
    ) -> R:
        # With autocommit off, the transaction is the caller's and is only joined. With it on, transaction() is
        # BEGIN and COMMIT, or a savepoint inside a transaction of the caller's.
        own = (op.atomic or (self._connector.explicit and not getattr(op, "alone", False))) and connection.autocommit
        with connection.transaction() if own else nullcontext():
            walk = Walk(op)
            while walk.request:
                try:
                    replies = self._perform(connection, walk.request, meanwhile)
                except psycopg.Error as error:
                    walk.fail(error)
                else:
                    walk.reply([asked.read(rows) for asked, rows in zip(walk.request, replies, strict=True)])
            return walk.result

    def _perform(
        self, connection: Connection[Any] | Foreign, request: Request, meanwhile: Callable[[], None] | None
    ) -> Sequence[Rows]:
        if request[0].copy is not None:
            return self._copy_or_insert(connection, request[0].copy)
        if not isinstance(connection, Connection):
            return [connection.rows(*self._render(statement)) for statement in request]
        if connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            # Inside a pipeline of the caller's: psycopg would sync at each nesting.
            cursors = [self._send(connection, statement) for statement in request]
            return [self._await(cursor) for cursor in cursors]
        if len(request) == 1 and meanwhile is None:
            if request[0].texts and isinstance(connection, OwnConnection) and connection.prepare_threshold is not None:
                rows = self._exchange(connection, request[0])
                if rows is not None:
                    return [rows]
            return [self._fetch(self._send(connection, request[0]))]
        try:
            with connection.pipeline():
                cursors = [self._send(connection, statement) for statement in request]
                if meanwhile is not None:
                    meanwhile()
        except BaseException:
            forget_prepared(connection)
            if isinstance(connection, OwnConnection):
                connection.torn = True
            raise
        return [self._fetch(cursor) for cursor in cursors]

    def _copy_or_insert(self, connection: Connection[Any] | Foreign, copy: Copy) -> Sequence[Rows]:
        if isinstance(connection, OwnConnection) and can_copy(connection):
            with suppress(*NOT_COPIED):
                return [self._copy(connection, copy)]
        return self._perform(connection, (copy.instead(),), None)

    def _copy(self, connection: OwnConnection, copy: Copy) -> Rows:
        # A transaction, or a savepoint in that of the operation.
        with connection.transaction(), PlainCursor(connection) as cursor:
            with cursor.copy(self._render.text(copy.sql)) as sink:
                for lines in copy.lines():
                    sink.write(lines)
            return self._fetch(self._send(connection, copy.then))

    def _exchange(self, connection: OwnConnection, statement: Statement[Any]) -> "Rows | None":
        """Execute a prepared statement; None when that has to be done in the usual way."""
        text, params = sendable(connection.pgconn, *self._render(statement))
        if params is None:
            return None
        return connection.wait(connection.prepared.exchange(connection.pgconn, text, params))

    def _send(self, connection: Connection[Any], statement: Statement[Any]) -> Cursor[Any]:
        # A cursor class and row factory of our own: a caller's connection may carry others.
        cursor = PlainCursor(connection, row_factory=tuple_row)
        text, params = sendable(connection.pgconn, *self._render(statement))
        return cursor.execute(text, params, binary=statement.binary)

    @staticmethod
    def _fetch(cursor: Cursor[Any]) -> Rows:
        # Not `description`, which describes every column.
        result = cursor.pgresult
        if result is None or not result.nfields:
            return []
        try:
            return cursor.fetchall()
        except UNREADABLE:
            return read_leniently(cursor)

    @staticmethod
    def _await(cursor: Cursor[Any]) -> Rows:
        # Only fetching waits for the answer; before it, there is no telling whether it has rows.
        try:
            return cursor.fetchall()
        except psycopg.ProgrammingError as error:
            if no_records(error):
                return []
            raise
        except UNREADABLE:
            if cursor.pgresult is None or cursor.pgresult.status != pq.ExecStatus.TUPLES_OK:
                raise
            return read_leniently(cursor)
