"""LISTEN on a connection of its own, waited for with select, without a thread."""

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import Connection, sql

from pgwerk._core.notifications import PROBE
from pgwerk._postgres.adapting import PLAIN
from pgwerk._postgres.driver import DEAF, PROOF_SECONDS, connection_string, lost, shown_dsn, translated
from pgwerk._postgres.settings import FACTS, facts, pin
from pgwerk.errors import ConnectionFailed
from pgwerk.sync.executor import Executor

logger = logging.getLogger("pgwerk.listener")


class Listener:
    """Hear the notifications of some channels. Not for use by two threads at once."""

    kind: type[Connection[Any]] = Connection
    """The class of its connection."""
    any_bytes = False
    """Whether it can take what is said in a database without an encoding, which Postgres would not translate."""

    def __init__(self, executor: Executor, channels: Sequence[str], dsn: str | None = None) -> None:
        self._executor = executor
        self._channels = tuple(channels)
        self._conninfo = connection_string(dsn, "werk listen") if dsn else executor.conninfo
        self._where = shown_dsn(dsn) if dsn else executor.where
        self._connection: Connection[Any] | None = None
        self.deaf = False
        """A pooler swallows notifications: whoever listens has to poll."""

    def connect(self) -> None:
        """Connect and LISTEN; raises ConnectionFailed."""
        self.close()
        connection: Connection[Any] | None = None
        try:
            connection = self.kind.connect(self._conninfo, autocommit=True, context=PLAIN if self.any_bytes else None)
            for channel in self._channels:
                _ = connection.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
            self._connection = connection
            if self._is_pooled(connection) and not self.deaf:
                self.deaf = not self._proves_itself()
                if self.deaf:
                    logger.warning(DEAF)
        except psycopg.Error as error:
            self._drop(connection)
            raise translated(error, self._where) from error
        except BaseException:
            # Interrupted: nobody else knows of it.
            self._drop(connection)
            raise

    def _drop(self, connection: Connection[Any] | None) -> None:
        self.close()
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _is_pooled(self, connection: Connection[Any]) -> bool:
        found = facts(connection.execute(FACTS).fetchone(), connection.info.backend_pid)
        to_set = found.to_set if self.any_bytes else found.wrong
        if to_set and not found.pooled:
            _ = connection.execute(*pin(to_set))
        return found.pooled

    def _proves_itself(self) -> bool:
        assert self._connection is not None
        with contextlib.closing(self._executor.connect()) as other:
            _ = other.execute("select pg_notify(%s, %s)", [self._channels[0], PROBE])
        for notify in self._connection.notifies(timeout=PROOF_SECONDS, stop_after=1):
            return bool(notify.payload)
        return False

    def fileno(self) -> int:
        """The socket to select on; -1 while not connected."""
        if self._connection is None or self._connection.closed:
            return -1
        return self._connection.fileno()

    def drain(self) -> list[tuple[str, str]]:
        """Return what has been heard (channel, payload) without waiting; raises ConnectionFailed."""
        return self.wait(0.0)

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Wait up to *seconds* for something to be heard; raises ConnectionFailed when the connection is gone."""
        if self._connection is None:
            return []
        try:
            heard = [(n.channel, n.payload) for n in self._connection.notifies(timeout=seconds, stop_after=1)]
            if heard or seconds == 0.0:
                heard += [(n.channel, n.payload) for n in self._connection.notifies(timeout=0)]
        except psycopg.Error as error:
            self.close()
            if lost(error):
                raise ConnectionFailed(f"the listening connection was lost: {error}") from error
            raise translated(error, self._where) from error
        return heard

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()
