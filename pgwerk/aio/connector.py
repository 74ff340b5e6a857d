"""How this side connects to Postgres: configured, told apart from a pooler, and with a deadline on the answers."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, IsolationLevel

from pgwerk._postgres.adapting import PLAIN
from pgwerk._postgres.connecting import refused, unanswered
from pgwerk._postgres.connector import BaseConnector
from pgwerk._postgres.prepared import PreparedStatements
from pgwerk._postgres.settings import refuse_statement_mode

T = TypeVar("T")


class OwnConnection(AsyncConnection[Any]):
    """A connection of ours, whose answers may have a deadline."""

    patience: float | None = None
    """Seconds that an answer may take; None means no limit."""
    pooled = False
    """Whether a pooler is between us and Postgres."""
    torn = False
    """Whether a pipeline failed: psycopg may believe in prepared statements that Postgres never got."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared = PreparedStatements()

    async def in_time(self, exchange: Coroutine[Any, Any, T]) -> T:
        """Await an exchange with Postgres; raises Unanswered when it takes too long."""
        seconds = self.patience
        if seconds is None:
            return await exchange
        if not self.pooled:
            try:
                async with asyncio.timeout(seconds):
                    return await exchange
            except TimeoutError as error:
                raise unanswered(seconds, self.pooled) from error
        # Not by a cancellation, which psycopg would pass on to a pooler and then wait for.
        cutting = asyncio.get_running_loop().call_later(seconds, self._cut)
        try:
            return await exchange
        except psycopg.OperationalError as error:
            if cutting.when() <= asyncio.get_running_loop().time():
                raise unanswered(seconds, self.pooled) from error
            raise
        finally:
            cutting.cancel()

    def _cut(self) -> None:
        """Let whoever waits for the socket see its end."""
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.pgconn.socket)) as same:
            same.shutdown(socket.SHUT_RDWR)


class Connector(BaseConnector):
    """Makes connections in autocommit, on whichever loop asks."""

    async def connect(self) -> OwnConnection:
        """Open a connection; raises ConnectionFailed, DatabaseError."""
        try:
            return await self.attempt()
        except psycopg.Error as error:
            raise refused(error, self.where) from error

    async def attempt(self) -> OwnConnection:
        """Open a connection; raises psycopg's errors."""
        connection: OwnConnection = await OwnConnection.connect(self.conninfo, autocommit=True, context=PLAIN)
        try:
            await self._configure(connection)
        except psycopg.Error as error:
            connection.pgconn.finish()
            refuse_statement_mode(error, self.where)
            raise
        except BaseException:
            # Cancelled or cut off: nobody else knows of it. Without an await, which could be cancelled again.
            connection.pgconn.finish()
            raise
        return connection

    async def _configure(self, connection: OwnConnection) -> None:
        steps, row = self.configuration(connection), None
        try:
            while True:
                cursor = await connection.in_time(connection.execute(*steps.send(row)))
                row = await cursor.fetchone() if cursor.description else None
        except StopIteration as end:
            if end.value:
                await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
                await connection.set_read_only(False)
