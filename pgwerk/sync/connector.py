"""How this side connects to Postgres: configured, told apart from a pooler, and with a deadline on each answer."""

import psycopg
from psycopg import IsolationLevel

from pgwerk._postgres.adapting import PLAIN
from pgwerk._postgres.connecting import answer_within, connect_seconds, refused
from pgwerk._postgres.driver import connection_string, shown_dsn
from pgwerk._postgres.own_connection import OwnConnection
from pgwerk._postgres.settings import FACTS, PROBE, facts, pin, refuse_statement_mode


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
