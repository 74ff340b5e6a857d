"""A worker's own connection: one log line for each change between working and not."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import Connection

from pgwerk._core.operation import Operation, Procedure, R
from pgwerk._psycopg import TRIES, translated
from pgwerk.errors import ConnectionFailed, DatabaseError, WerkError
from pgwerk.sync.executor import Executor, walk_through

logger = logging.getLogger("pgwerk.worker")

SETTINGS = {
    # A statement that hangs must not hang the worker.
    "statement_timeout": "60s",
    # Every statement of a worker reads what an index gives it. Prepared while the tables are small or new, its plan
    # would be a scan of all rows, and be kept until they are analyzed: minutes, when a burst arrives.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    # Planned once, not five times before.
    "plan_cache_mode": "force_generic_plan",
}
_SET = f"select {', '.join('set_config(%s, %s, false)' for _ in SETTINGS)}"
ROLLED_BACK = ("40001", "40P01")
"""A serialization failure or a deadlock: for the sake of another transaction, and worth another try at once."""


class Session:
    """Run operations on one connection that is kept; not for use by two threads at once."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._connection: Connection[Any] | None = None
        self._troubled = False
        self.failures = 0
        """How often in a row the database failed us."""
        self.ever_connected = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect; raises ConnectionFailed."""
        connection = self._executor.connect()
        if self._executor.prepare:
            # Only without a pooler, whose next client would have them.
            try:
                _ = connection.execute(_SET, [word for setting in SETTINGS.items() for word in setting])
                connection.prepare_threshold = 0
            except psycopg.Error as error:
                connection.close()
                raise translated(error, self._executor.where) from error
        self._connection = connection
        self.ever_connected = True

    def run(self, op: Operation[R], meanwhile: Callable[[], None] | None = None) -> R:
        """Run *op*; raises ConnectionFailed when the connection is gone.

        *meanwhile* is called while Postgres works, as often as that may be: not at all, or again.
        """
        if self._connection is None:
            raise ConnectionFailed("not connected")
        return self._run(self._connection, op, meanwhile)

    def perform(self, steps: Procedure[R]) -> R:
        """Run a procedure, each operation in a transaction of its own."""
        if self._connection is None:
            raise ConnectionFailed("not connected")
        return walk_through(steps, self.run)

    def _run(self, connection: Connection[Any], op: Operation[R], meanwhile: Callable[[], None] | None) -> R:
        for _ in range(1, TRIES):
            try:
                return self._executor.run_on(connection, op, meanwhile)
            except DatabaseError as error:
                if error.sqlstate not in ROLLED_BACK:
                    raise
        return self._executor.run_on(connection, op, meanwhile)

    def lost(self, error: WerkError) -> None:
        """Give the connection up; the first time, say so."""
        self.trouble(error)
        self.close()

    def trouble(self, error: WerkError) -> None:
        """Count a failure; the first time, say so."""
        self.failures += 1
        if not self._troubled:
            self._troubled = True
            logger.warning("%s; trying again until it works", error)

    def works(self) -> None:
        """All that was asked for went well; the first time after trouble, say so."""
        if self._troubled:
            logger.info("Postgres at %s answers again", self._executor.where)
        self._troubled, self.failures = False, 0

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
