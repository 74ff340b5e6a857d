"""The connection over which a worker says that it lives, and hears notifications: no wait on it is without an end."""

import contextlib
import logging
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg import Connection, pq

from pgwerk._app.ports import ANSWER_SECONDS
from pgwerk._core.operation import Operation, R
from pgwerk._handlers.run import monotonic
from pgwerk._postgres.adapting import PLAIN
from pgwerk._postgres.bounded import bounded
from pgwerk._postgres.driver import DEAF, PROOF_SECONDS, translated
from pgwerk._postgres.own_connection import OwnConnection
from pgwerk._postgres.settings import FACTS, facts, pin
from pgwerk.errors import ConnectionFailed, WerkError
from pgwerk.sync.executor import Executor
from pgwerk.sync.listener import Listener

logger = logging.getLogger("pgwerk.worker")

LOCK_SECONDS = 2.0
"""How long a heartbeat waits for a lock: on its own row, which somebody may hold for an instant, or on the table."""


class HeartbeatConnection(OwnConnection):
    """Gives up an answer that takes too long, and hears notifications whatever bytes they bring."""

    patience = ANSWER_SECONDS
    cancels = False

    def __init__(self, pgconn: pq.abc.PGconn, *args: Any, **kwargs: Any) -> None:
        super().__init__(pgconn, *args, **kwargs)
        # A pooler may stand in between, and what is asked is asked rarely.
        self.prepare_threshold = None
        self.heard: deque[str] = deque()
        """The payloads that have arrived."""
        # In place of psycopg's, which fails where the server has no encoding and somebody sends any bytes.
        self.pgconn.notify_handler = partial(_hear, self.heard)


def _hear(heard: "deque[str]", notify: pq.misc.PGnotify) -> None:
    heard.append(notify.extra.decode(errors="replace"))


class Line(Listener):
    """A listener that also runs statements."""

    kind = HeartbeatConnection
    any_bytes = True

    def __init__(self, executor: Executor, channels: Sequence[str], dsn: str | None = None) -> None:
        super().__init__(executor, channels, dsn)
        self.heard: deque[str] = deque()
        self.unproven = False
        """Whether a pooler stands between us and Postgres, through which nothing has been heard so far."""

    def connect(self) -> None:
        """Connect and LISTEN; raises ConnectionFailed."""
        super().connect()
        connection = self._connection
        if isinstance(connection, HeartbeatConnection):
            self.heard.extend(connection.heard)
            connection.pgconn.notify_handler = partial(_hear, self.heard)

    def _proves_itself(self) -> bool:
        # Over the worker's other connection, so that it takes no third one.
        self.unproven = True
        return True

    def drain(self) -> list[tuple[str, str]]:
        """Take what has arrived to `heard`, without waiting; raises ConnectionFailed."""
        connection = self._connection
        if connection is not None:
            try:
                connection.pgconn.consume_input()
                while (notify := connection.pgconn.notifies()) is not None:
                    _hear(self.heard, notify)
            except psycopg.Error as error:
                self.close()
                raise ConnectionFailed(f"the listening connection was lost: {str(error).strip()}") from error
        return []

    @property
    def connection(self) -> "Connection[Any] | None":
        """The connection, if there is one."""
        return self._connection


class PostgresWorkerListener:
    """Keep one connection for heartbeats and notifications, or for heartbeats alone where it cannot listen."""

    def __init__(self, executor: Executor, line: Line) -> None:
        self._executor = executor
        self._line = line
        self._plain: Connection[Any] | None = None
        """Instead of the line, where that cannot be had: its DSN may be another."""
        self._hears = True
        self._proof_by: float | None = None

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._line.connection is not None or self._plain is not None

    @property
    def listening(self) -> bool:
        """Whether notifications can arrive."""
        return self._line.connection is not None

    @property
    def heard(self) -> "deque[str]":
        """The payloads that have arrived; taken from its left."""
        return self._line.heard

    def listen(self) -> bool:
        """Begin to listen if that is not so; False when it cannot be. The first failure is logged, none is raised."""
        if self.listening:
            return True
        try:
            self._line.connect()
        except WerkError as error:
            if self._hears:
                logger.warning("cannot listen, polling instead: %s", error)
            self._hears = False
            return False
        if not self._hears:
            logger.info("listening again")
        self._hears = True
        self._drop_plain()
        return True

    def connect(self) -> None:
        """Connect, if need be only to be able to say that we live; raises WerkError."""
        if self.listen() or self._plain is not None:
            return
        try:
            plain = HeartbeatConnection.connect(self._executor.conninfo, autocommit=True, context=PLAIN)
            found = facts(plain.execute(FACTS).fetchone(), plain.info.backend_pid)
            if found.to_set:
                _ = plain.execute(*pin(found.to_set))
            self._plain = plain
        except psycopg.Error as error:
            raise translated(error, self._executor.where) from error

    def run(self, op: Operation[R]) -> R:
        """Run *op* on whatever there is; raises ConnectionFailed when that is gone."""
        connection = self._line.connection or self._plain
        if connection is None:
            raise ConnectionFailed("not connected")
        return self._executor.run_on(connection, bounded(op, LOCK_SECONDS))

    def fileno(self) -> int:
        """The socket to wait for; -1 without one."""
        return self._line.fileno()

    def drain(self) -> None:
        """Take what has arrived; raises ConnectionFailed when the connection is gone."""
        _ = self._line.drain()

    # Poolers ----------------------------------------------------------------------

    def wants_proof(self) -> bool:
        """Whether somebody should notify us now, over another connection, to see whether that arrives; asks once."""
        wanted, self._line.unproven = self._line.unproven, False
        if wanted:
            self._proof_by = monotonic() + PROOF_SECONDS
        return wanted

    def look_for_proof(self, payload: str | None = None) -> None:
        """Take note of what was heard; say so once, when nothing is."""
        if payload is not None:
            self._proof_by = None
        elif self._proof_by is not None and monotonic() > self._proof_by and not self._line.heard:
            self._proof_by = None
            self._line.deaf = True
            logger.warning(DEAF)

    def _drop_plain(self) -> None:
        plain, self._plain = self._plain, None
        if plain is not None:
            with contextlib.suppress(psycopg.Error):
                plain.close()

    def close(self) -> None:
        """Close whatever is open."""
        self._line.close()
        self._drop_plain()
