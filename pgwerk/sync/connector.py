"""How this side connects to Postgres: configured, told apart from a pooler, and with a deadline on each answer."""

import psycopg
from psycopg import IsolationLevel

from pgwerk._postgres.adapting import PLAIN
from pgwerk._postgres.connecting import refused
from pgwerk._postgres.connector import BaseConnector
from pgwerk._postgres.own_connection import OwnConnection
from pgwerk._postgres.settings import refuse_statement_mode


class Connector(BaseConnector):
    """Makes connections in autocommit; any number of threads may."""

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
            self._configure(connection)
        except psycopg.Error as error:
            connection.close()
            refuse_statement_mode(error, self.where)
            raise
        except BaseException:
            connection.close()
            raise
        return connection

    def _configure(self, connection: OwnConnection) -> None:
        steps, row = self.configuration(connection), None
        try:
            while True:
                cursor = connection.execute(*steps.send(row))
                row = cursor.fetchone() if cursor.description else None
        except StopIteration as end:
            if end.value:
                connection.isolation_level = IsolationLevel.READ_COMMITTED
                connection.read_only = False

    def _connected(self) -> OwnConnection:
        try:
            return OwnConnection.connect(self.conninfo, autocommit=True, context=PLAIN)
        except psycopg.ProgrammingError as error:
            # psycopg takes an interruption that arrives while it reads a number for a bad number.
            interruption = error.__context__
            if interruption is not None and not isinstance(interruption, ValueError):
                raise interruption from None
            raise
