"""A worker's own connection: one log line for each change between working and not."""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import Connection, pq

from pgwerk._app.ports import WorkerConnection, unexpected
from pgwerk._core.operation import Operation, R
from pgwerk._postgres.bounded import bounded
from pgwerk._postgres.driver import TRIES, rolled_back, translated
from pgwerk.errors import ConnectionFailed, DatabaseError, WerkError
from pgwerk.sync.executor import Executor

logger = logging.getLogger("pgwerk.worker")

LOCK_SECONDS = 1.5
"""How long a statement waits for somebody else's lock: the outcomes of other jobs wait with it."""

SETTINGS = {
    # A statement that hangs must not hang the worker.
    "statement_timeout": "60s",
    "lock_timeout": f"{LOCK_SECONDS * 1000:.0f}ms",
    # Every statement of a worker reads what an index gives it. Prepared while the tables are small or new, its plan
    # would be a scan of all rows, and be kept until they are analyzed: minutes, when a burst arrives.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    # Planned once, not five times before.
    "plan_cache_mode": "force_generic_plan",
}
_SET = f"select {', '.join('set_config(%s, %s, false)' for _ in SETTINGS)}"


class PostgresWorkerConnection(WorkerConnection):
    """Run operations on one connection that is kept; not for use by two threads at once."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor.where)
        self._executor = executor
        self._connection: Connection[Any] | None = None
        self._changing = threading.Lock()
        """Held while the connection is closed, lest another thread cut what has taken its descriptor."""
        self._bounded = False
        """Whether each operation has to say itself how long it waits for locks: a pooler keeps no settings."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect; raises ConnectionFailed."""
        self.asked += 1
        self.asking = True
        try:
            connection = self._executor.connect()
            self._bounded = not self._executor.prepare
            if self._executor.prepare:
                # Only without a pooler, whose next client would have them.
                try:
                    _ = connection.execute(_SET, [word for setting in SETTINGS.items() for word in setting])
                    connection.prepare_threshold = 0
                except psycopg.Error as error:
                    connection.close()
                    raise translated(error, self._executor.where) from error
        finally:
            self.asking = False
        self._connection = connection
        self.ever_connected = True

    def run(self, op: Operation[R], meanwhile: Callable[[], None] | None = None, patience: float | None = None) -> R:
        """Run *op*, waiting for locks for *patience* seconds; raises ConnectionFailed when the connection is gone.

        *meanwhile* is called while Postgres works, as often as that may be: not at all, or again. Whatever else goes
        wrong, also inside psycopg, is a WerkError.
        """
        if self._connection is None:
            raise ConnectionFailed("not connected")
        if patience is not None or self._bounded:
            op = bounded(op, patience or LOCK_SECONDS)
        self.asked += 1
        self.asking = True
        try:
            return self._run(self._connection, op, meanwhile)
        except WerkError:
            raise
        except Exception as error:
            self._mend()
            raise unexpected(error) from error
        finally:
            self.asking = False

    def _run(self, connection: Connection[Any], op: Operation[R], meanwhile: Callable[[], None] | None) -> R:
        for _ in range(1, TRIES):
            try:
                return self._executor.run_on(connection, op, meanwhile)
            except DatabaseError as error:
                if not rolled_back(error):
                    raise
        return self._executor.run_on(connection, op, meanwhile)

    def _mend(self) -> None:
        """After an error that psycopg did not expect: the connection may be in the middle of anything."""
        connection = self._connection
        if connection is None:
            return
        pgconn = connection.pgconn
        idle = pgconn.transaction_status == pq.TransactionStatus.IDLE
        if not idle or pgconn.pipeline_status != pq.PipelineStatus.OFF:
            self.close()
            self.connect()

    def cut(self) -> None:
        """Break the connection, from another thread: whoever waits for an answer gets an error."""
        with self._changing:
            connection = self._connection
            if connection is None or connection.closed:
                return
            shut(connection)

    def close(self) -> None:
        """Close the connection."""
        with self._changing:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(psycopg.Error):
                    connection.close()


def shut(connection: Connection[Any]) -> None:
    """Break a connection under whoever waits for it."""
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)
