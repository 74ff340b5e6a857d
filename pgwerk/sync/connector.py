"""How this side connects to Postgres: configured, told apart from a pooler, and with a deadline on each answer."""

import contextlib
import select
import time
from typing import Any

import psycopg
from psycopg import Connection, IsolationLevel
from psycopg.abc import RV, PQGen

from pgwerk._postgres.adapting import PLAIN
from pgwerk._postgres.connecting import answer_within, connect_seconds, refused, unanswered
from pgwerk._postgres.driver import connection_string, shown_dsn
from pgwerk._postgres.prepared import PreparedStatements
from pgwerk._postgres.settings import FACTS, PROBE, facts, pin, refuse_statement_mode

CANCEL_SECONDS = 1.0
"""Seconds that Postgres may take to hear that nobody waits for an answer any more."""

_GLANCE_MS = 100
_EVENTS = {1: select.POLLIN, 2: select.POLLOUT, 3: select.POLLIN | select.POLLOUT}


class OwnConnection(Connection[Any]):
    """A connection of ours, whose answers may have a deadline."""

    patience: float | None = None
    """Seconds that an answer may take; None is no limit."""
    pooled = False
    """Whether a pooler is between us and Postgres."""
    torn = False
    """Whether a pipeline failed: psycopg may believe in prepared statements that Postgres never got."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared = PreparedStatements()

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Wait for what *gen* asks for; raises Unanswered when that takes too long."""
        if self.patience is None or args or kwargs:
            return super().wait(gen, *args, **kwargs)
        return self._wait_until(gen, time.monotonic() + self.patience)

    def _wait_until(self, gen: PQGen[RV], until: float) -> RV:
        try:
            wanted = next(gen)
            poll = select.poll()
            while True:
                poll.register(self.fileno(), _EVENTS[int(wanted)])
                # In steps, so that an interruption of this thread arrives.
                happened = poll.poll(min(_GLANCE_MS, max(1, int((until - time.monotonic()) * 1000))))
                if happened:
                    event = happened[0][1]
                    ready = (1 if event & ~select.POLLOUT else 0) | (2 if event & select.POLLOUT else 0)
                    wanted = gen.send(ready)
                elif time.monotonic() >= until:
                    raise self._give_up()
        except StopIteration as stop:
            value: RV = stop.value
            return value

    def _give_up(self) -> psycopg.Error:
        with contextlib.suppress(Exception):
            if not self.pooled:
                # A pooler ends what its client waits for when the connection is closed; Postgres does not.
                self.cancel_safe(timeout=CANCEL_SECONDS)
        self.close()
        return unanswered(self.patience or 0.0, self.pooled)


class Connector:
    """Makes connections in autocommit; any number of threads may."""

    def __init__(self, dsn: str, name: str) -> None:
        self.conninfo = connection_string(dsn, name)
        self.where = shown_dsn(dsn)
        self._seconds = connect_seconds(self.conninfo)
        self.prepare = True
        """Whether statements may be prepared; a pooler between us and Postgres forbids it."""
        self.explicit = False
        """Whether every statement needs a transaction: through a pooler, their default cannot be changed."""

    def connect(self) -> OwnConnection:
        """Open a connection; raises ConnectionFailed, DatabaseError."""
        try:
            return self.attempt()
        except psycopg.Error as error:
            raise refused(error, self.where) from error

    def attempt(self) -> OwnConnection:
        """Open a connection; raises psycopg's errors."""
        connection = self._connected()
        try:
            # A pooler accepts a client at once and lets its first statement wait.
            connection.patience, connection.pooled = self._seconds, True
            found = facts(connection.execute(FACTS).fetchone(), connection.info.backend_pid)
            connection.pooled = found.pooled
            if found.pooled and self.prepare:
                self._try_transaction(connection)
                # The next statement may reach another server process.
                self.prepare = False
            if not self.prepare:
                connection.prepare_threshold = None
            if found.explicit:
                self.explicit = True
                connection.isolation_level = IsolationLevel.READ_COMMITTED
                connection.read_only = False
            elif found.to_set:
                _ = connection.execute(*pin(found.to_set))
            connection.patience = answer_within(connection.pooled)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connected(self) -> OwnConnection:
        try:
            return OwnConnection.connect(self.conninfo, autocommit=True, context=PLAIN)
        except psycopg.ProgrammingError as error:
            # psycopg takes an interruption that arrives while it reads a number for a bad number.
            interruption = error.__context__
            if interruption is not None and not isinstance(interruption, ValueError):
                raise interruption from None
            raise

    def _try_transaction(self, connection: OwnConnection) -> None:
        try:
            for text in PROBE:
                _ = connection.execute(text)
        except psycopg.Error as error:
            refuse_statement_mode(error, self.where)
            raise
