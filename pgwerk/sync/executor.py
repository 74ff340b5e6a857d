"""The synchronous executor: walks operations over pooled psycopg connections."""

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, Cursor, pq
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool, PoolTimeout

from pgwerk._connections import Foreign
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
from pgwerk._runs import INTERRUPTIONS
from pgwerk.errors import ConnectionFailed

R = TypeVar("R")

_inherited: list[object] = []
"""Pools of a parent process: kept, because their finalisers belong to it."""


def _close_pool(pool: ConnectionPool[Any], pid: int) -> None:
    if os.getpid() == pid:
        pool.close()


class Executor:
    """Run operations; one for each app, used by any number of threads, made anew after a fork."""

    def __init__(self, dsn: str, names: Names, *, pool_size: int = 10, pooled: bool = True, name: str = "werk") -> None:
        self.conninfo = connection_string(dsn, name)
        self.where = shown_dsn(dsn)
        self._render = Renderer(names)
        self._pool_size = pool_size
        self._pooled = pooled
        self._lock = threading.Lock()
        self._pool: ConnectionPool[Connection[Any]] | None = None
        self._pid = os.getpid()
        self._suspect = False
        """A connection was lost: the others of the pool may be, too."""
        self.prepare = True
        """Whether statements may be prepared; a pooler between us and Postgres forbids it."""

    # Connections ------------------------------------------------------------------

    def connect(self) -> Connection[Any]:
        """Open a connection of one's own, in autocommit; raises ConnectionFailed."""
        try:
            connection = Connection.connect(self.conninfo, autocommit=True)
            try:
                self._configure(connection)
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            raise translated(error, self.where) from error
        return connection

    def _configure(self, connection: Connection[Any]) -> None:
        row = connection.execute("select pg_backend_pid()").fetchone()
        if row is not None and row[0] != connection.info.backend_pid:
            # Somebody stands between us and the server; the next statement may reach another one.
            self.prepare = False
        if not self.prepare:
            connection.prepare_threshold = None

    def _pool_now(self) -> ConnectionPool[Connection[Any]]:
        if self._pid != os.getpid():
            # A fork: the parent's connections and threads are not ours. Neither used nor closed.
            self._lock = threading.Lock()
            _inherited.append(self._pool)
            self._pool, self._pid = None, os.getpid()
        with self._lock:
            if self._pool is None:
                # The pool would go on trying in the background; a wrong DSN should say so at once.
                self.connect().close()
                self._pool = ConnectionPool(
                    self.conninfo,
                    min_size=0,
                    max_size=self._pool_size,
                    max_idle=60.0,
                    timeout=POOL_TIMEOUT,
                    reconnect_timeout=5.0,
                    num_workers=1,
                    open=True,
                    name="pgwerk",
                    kwargs={"autocommit": True},
                    configure=self._configure,
                    check=None,
                )
                # At the latest at the end of the program: later, its threads cannot be stopped any more.
                _ = weakref.finalize(self, _close_pool, self._pool, self._pid)
            return self._pool

    def _connection(self) -> AbstractContextManager[Connection[Any]]:
        if not self._pooled:
            return self.connect()
        pool = self._pool_now()
        if self._suspect:
            # The pool would hand out the other dead ones, and then wait: say at once whether Postgres is there.
            self.connect().close()
            self._suspect = False
            pool.check()
        return _Lease(pool)

    def close(self) -> None:
        """Close the pool; the next use opens another."""
        if self._pid == os.getpid() and self._pool is not None:
            self._pool.close()
        self._pool = None

    # Running ----------------------------------------------------------------------

    def run(self, op: Operation[R], connection: Connection[Any] | Foreign | None = None) -> R:
        """Run *op*. On a *connection* of yours it joins the transaction you have open, and is never repeated.

        Raises the operation's own errors, ConnectionFailed, DatabaseError.
        """
        if connection is not None:
            return self.run_on(connection, op)
        for attempt in range(1, TRIES + 1):
            try:
                with self._connection() as own:
                    return self._walk(own, op)
            except psycopg.Error as error:
                self._suspect = self._suspect or (lost(error) and not isinstance(error, PoolTimeout))
                again = isinstance(error, RETRYABLE) or (lost(error) and op.repeatable)
                if isinstance(error, PoolTimeout):
                    self.connect().close()  # says why, if the reason is Postgres
                    raise ConnectionFailed(all_in_use(self._pool_size, self.where)) from error
                if not again or attempt == TRIES:
                    raise translated(error, self.where) from error
            time.sleep(backoff.reconnect(attempt, random.random()))
        raise AssertionError("unreachable")

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
        own = op.atomic and connection.autocommit
        with connection.transaction() if own else nullcontext():
            walk = Walk(op)
            while walk.request:
                try:
                    replies = self._perform(connection, walk.request, meanwhile)
                except psycopg.Error as error:
                    walk.fail(error)
                else:
                    walk.reply(replies)
            return walk.result

    def _perform(
        self, connection: Connection[Any] | Foreign, request: Request, meanwhile: Callable[[], None] | None
    ) -> Sequence[Rows]:
        if not isinstance(connection, Connection):
            return [connection.rows(*self._render(statement)) for statement in request]
        if connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
            # Inside a pipeline of the caller's: psycopg would sync at each nesting.
            cursors = [self._send(connection, statement) for statement in request]
            return [self._await(cursor) for cursor in cursors]
        if len(request) == 1 and meanwhile is None:
            return [self._fetch(self._send(connection, request[0]))]
        with connection.pipeline():
            cursors = [self._send(connection, statement) for statement in request]
            if meanwhile is not None:
                meanwhile()
        return [self._fetch(cursor) for cursor in cursors]

    def _send(self, connection: Connection[Any], statement: Statement[Any]) -> Cursor[Any]:
        # A cursor class and row factory of our own: a caller's connection may carry others.
        cursor = Cursor(connection, row_factory=tuple_row)
        read_json(cursor)
        text, params = self._render(statement)
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


class _Lease:
    """A connection of the pool for a block. What is begun in it is ended in it: no commit or rollback is asked for."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: ConnectionPool[Connection[Any]]) -> None:
        self._pool = pool

    def __enter__(self) -> Connection[Any]:
        self._connection = self._pool.getconn()
        return self._connection

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        # One that was left in a transaction all the same is rolled back by the pool.
        finish_if_torn(self._connection.pgconn)
        if isinstance(error, INTERRUPTIONS):
            # Raised in this thread at some moment inside psycopg, which may believe anything about the connection.
            self._connection.close()
        self._pool.putconn(self._connection)


def walk_through(steps: Procedure[R], run: Callable[[Operation[Any]], Any]) -> R:
    """Run each operation that a procedure asks for with *run*."""
    try:
        op = next(steps)
        while True:
            try:
                result = run(op)
            except Exception as error:  # noqa: BLE001  # the procedure decides
                op = steps.throw(error)
            else:
                op = steps.send(result)
    except StopIteration as stop:
        value: R = stop.value
        return value
