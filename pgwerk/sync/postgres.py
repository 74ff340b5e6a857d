"""Postgres as the place of a synchronous app's jobs."""

import contextlib
from typing import Any

from pgwerk._app.definition import App
from pgwerk._app.waiting import LISTEN_SECONDS
from pgwerk._core.operation import Operation, R
from pgwerk._core.statements import queries
from pgwerk._postgres.callers import usable_connection
from pgwerk._postgres.driver import PROOF_SECONDS
from pgwerk._postgres.own_connection import OwnConnection
from pgwerk.sync.executor import Executor
from pgwerk.sync.listener import Listener
from pgwerk.sync.waiting import WaitingRoom
from pgwerk.sync.worker_connection import PostgresWorkerConnection
from pgwerk.sync.worker_listener import Line, PostgresWorkerListener


class PostgresBackend(Executor):
    """An executor with pooled connections, and what else there is to be made of an app's settings."""

    across_processes = True

    def __init__(self, app: App) -> None:
        config = app.config
        super().__init__(
            app.resolved_dsn(), app.names,
            pool_size=config.pool_size, pooled=config.pool, pool_timeout=config.pool_timeout,
        )  # fmt: skip
        self._names = app.names
        self._listen_dsn = app.listen_dsn

    def usable(self, conn: Any) -> Any:
        """Find the driver's connection behind whatever a caller has."""
        return usable_connection(conn)

    def room(self) -> WaitingRoom:
        """Make the place where threads wait for the ends of jobs."""
        return WaitingRoom(self.run, self.listener)

    def listener(self) -> "Ears":
        """Make a listener for the ends of jobs."""
        return Ears(self, [self._names.done_channel], self._listen_dsn)

    def run_once(self, op: Operation[R] | None) -> R | None:
        """Run an operation on a connection made for it, without a second try; None only connects."""
        with contextlib.closing(self.connect()) as connection:
            return self.run_on(connection, op) if op is not None else None

    def worker_connection(self) -> PostgresWorkerConnection:
        """Make a worker's connection for claims and outcomes; it connects later."""
        return PostgresWorkerConnection(self)

    def worker_listener(self) -> PostgresWorkerListener:
        """Make a worker's connection for heartbeats and notifications; it connects later."""
        return PostgresWorkerListener(self, Line(self, [self._names.wake_channel], self._listen_dsn))


def connection_string(werk: Any) -> str:
    """Tell our own code how the pool of a synchronous app connects to Postgres."""
    backend: PostgresBackend = werk._runtime.backend  # noqa: SLF001  # ours
    return backend.conninfo


class _Quick(OwnConnection):
    """A connection that answers soon, or is given up."""

    patience = LISTEN_SECONDS


class Ears(Listener):
    """The listener of those who wait."""

    kind = _Quick

    def _proves_itself(self) -> bool:
        # Over the pool, whose connections are there anyway.
        assert self._connection is not None
        self._executor.run(queries.tell_waiters())
        for notify in self._connection.notifies(timeout=PROOF_SECONDS, stop_after=1):
            return bool(notify.payload)
        return False
