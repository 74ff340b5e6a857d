"""LISTEN on a connection of its own: the loop calls back when something is heard; no task runs for it."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection, pq, sql

from pgwerk._core.statements import queries
from pgwerk._postgres.driver import DEAF, PROOF_SECONDS, connection_string, shown_dsn, translated
from pgwerk._postgres.settings import FACTS, facts, pin
from pgwerk.aio.executor import Executor

logger = logging.getLogger("pgwerk.listener")


class Listener:
    """Hear the notifications of one channel, on the loop that connects."""

    def __init__(self, executor: Executor, channel: str, dsn: str | None, hear: Callable[[str], None]) -> None:
        self._executor = executor
        self._channel = channel
        self._conninfo = connection_string(dsn, "werk listen") if dsn else executor.conninfo
        self._where = shown_dsn(dsn) if dsn else executor.where
        self._hear = hear
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: AsyncConnection[Any] | None = None
        self._fd = -1
        self._proof = asyncio.Event()
        self.on_loss: Callable[[], None] = lambda: None
        """Called when the connection is lost."""
        self.deaf = False
        """A pooler swallows notifications: whoever listens has to poll."""

    @property
    def connected(self) -> bool:
        """Whether it hears, as far as is known."""
        return self._connection is not None

    async def connect(self) -> None:
        """Connect and LISTEN; raises ConnectionFailed. `deaf` says when it is of no use."""
        self.close()
        connection: AsyncConnection[Any] | None = None
        try:
            connection = await AsyncConnection.connect(self._conninfo, autocommit=True)
            _ = await connection.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
            found = facts(await (await connection.execute(FACTS)).fetchone(), connection.info.backend_pid)
            if found.wrong and not found.pooled:
                _ = await connection.execute(*pin(found.wrong))
            self._watch(connection)
            if found.pooled and not await self._proves_itself():
                self.deaf = True
                logger.warning(DEAF)
                self.close()
        except psycopg.Error as error:
            self._drop(connection)
            raise translated(error, self._where) from error
        except BaseException:
            # Cancelled: nobody else knows of it.
            self._drop(connection)
            raise

    def _watch(self, connection: AsyncConnection[Any]) -> None:
        self._loop, self._connection = asyncio.get_running_loop(), connection
        # Remembered, because a lost connection does not know it any more.
        self._fd = connection.fileno()
        self._loop.add_reader(self._fd, self._readable, connection.pgconn)

    async def _proves_itself(self) -> bool:
        self._proof.clear()
        # Over the pool, whose connections are there anyway.
        await self._executor.run(queries.tell_waiters())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROOF_SECONDS):
                _ = await self._proof.wait()
        return self._proof.is_set()

    def _readable(self, pgconn: pq.abc.PGconn) -> None:
        """Read what has arrived; the end of the connection, too, is something to read."""
        heard: list[str] = []
        try:
            pgconn.consume_input()
            while (notify := pgconn.notifies()) is not None:
                heard.append(notify.extra.decode(errors="replace"))
        except psycopg.Error as error:
            logger.info("the listening connection was lost: %s", error)
            self.close()
            self.on_loss()
        if heard:
            self._proof.set()
        for payload in heard:
            self._hear(payload)

    def _drop(self, connection: AsyncConnection[Any] | None) -> None:
        self.close()
        if connection is not None:
            connection.pgconn.finish()

    def close(self) -> None:
        """Close the connection; on its loop."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            _ = self._loop.remove_reader(self._fd)
        connection.pgconn.finish()

    def abandon(self) -> None:
        """Close it from anywhere, also when its loop is closed."""
        if self._loop is not None and self._loop.is_running():
            with contextlib.suppress(RuntimeError):
                _ = self._loop.call_soon_threadsafe(self.close)
                return
        self.close()
