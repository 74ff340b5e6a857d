"""How this side connects to Postgres: configured, told apart from a pooler, and with a deadline on the answers."""

import asyncio
from typing import Any

import psycopg
from psycopg import AsyncConnection

from pgwerk._connecting import answer_within, connect_seconds, refused, unanswered
from pgwerk._psycopg import connection_string, shown_dsn


class OwnConnection(AsyncConnection[Any]):
    """A connection of ours, whose answers may have a deadline."""

    patience: float | None = None
    """Seconds that an answer may take; None is no limit."""
    pooled = False
    """Whether a pooler is between us and Postgres."""
    torn = False
    """Whether a pipeline failed: psycopg may believe in prepared statements that Postgres never got."""


class Connector:
    """Makes connections in autocommit, on whichever loop asks."""

    def __init__(self, dsn: str, name: str) -> None:
        self.conninfo = connection_string(dsn, name)
        self.where = shown_dsn(dsn)
        self._seconds = connect_seconds(self.conninfo)
        self.prepare = True
        """Whether statements may be prepared; a pooler between us and Postgres forbids it."""

    async def connect(self) -> OwnConnection:
        """Open a connection; raises ConnectionFailed, DatabaseError."""
        try:
            return await self.attempt()
        except psycopg.Error as error:
            raise refused(error, self.where) from error

    async def attempt(self) -> OwnConnection:
        """Open a connection; raises psycopg's errors."""
        connection: OwnConnection = await OwnConnection.connect(self.conninfo, autocommit=True)
        try:
            try:
                # A pooler accepts a client at once and lets its first statement wait.
                async with asyncio.timeout(self._seconds):
                    row = await (await connection.execute("select pg_backend_pid()")).fetchone()
            except TimeoutError as error:
                raise unanswered(self._seconds, pooled=True) from error
            connection.pooled = row is not None and row[0] != connection.info.backend_pid
            if connection.pooled:
                # The next statement may reach another server process.
                self.prepare = False
            if not self.prepare:
                connection.prepare_threshold = None
            connection.patience = answer_within(connection.pooled)
        except BaseException:
            # Cancelled or cut off: nobody else knows of it. Without an await, which could be cancelled again.
            connection.pgconn.finish()
            raise
        return connection
