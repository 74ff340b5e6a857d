"""Connections that are kept between uses, for the tasks of one loop.

No task runs for it, so a loop that ends without closing it has nothing to wait for; and what is lent comes back without
an await, so that no cancellation can come in between.
"""

import asyncio
import random
from collections import deque
from contextlib import AbstractAsyncContextManager

import psycopg

from pgwerk._handlers.run import monotonic
from pgwerk._postgres.connecting import (
    GLANCE,
    MAX_IDLE,
    Tries,
    all_in_use,
    answer_within,
    silent,
    slot_seconds,
    unharmed,
)
from pgwerk.aio.connector import Connector, OwnConnection


class Pool:
    """Lends connections on one loop. *size* None: each use has a new one, which is closed after it."""

    def __init__(self, connector: Connector, size: int | None, seconds: float) -> None:
        self._connector = connector
        self._size = size
        self._seconds = seconds
        self._idle: deque[tuple[OwnConnection, float]] = deque()
        """With the time of their last use, which ascends."""
        self._out = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False

    def lease(self) -> "Lease":
        """A connection for a block."""
        return Lease(self)

    @property
    def idle(self) -> int:
        """How many connections are kept that nobody uses."""
        return len(self._idle)

    async def take(self) -> OwnConnection:
        """Lend a connection, which must be given back; raises ConnectionFailed."""
        await self._slot()
        try:
            connection = self._pop() or await self._new()
        except BaseException:
            self._free_slot()
            raise
        connection.patience = answer_within(connection.pooled)
        return connection

    def give_back(self, connection: OwnConnection, error: BaseException | None) -> None:
        """Keep a connection for the next use, or close it when *error* may have harmed it."""
        if self._size is None or self.closed or connection.torn or not unharmed(connection.pgconn, error):
            discard(connection)
        else:
            self._idle.append((connection, monotonic()))
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(MAX_IDLE, self._shrink)
        self._free_slot()

    async def _slot(self) -> None:
        """Wait for the right to hold a connection."""
        if self._size is None or self._out < self._size:
            self._out += 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        seconds = slot_seconds(self._seconds)
        try:
            async with asyncio.timeout(seconds):
                await mine
        except BaseException as error:
            if mine.done() and not mine.cancelled():
                # It was handed to us just when we gave up.
                self._free_slot()
            elif mine in self._waiting:
                self._waiting.remove(mine)
            if isinstance(error, TimeoutError):
                raise all_in_use(self._size, seconds, self._connector.where) from None
            raise

    def _free_slot(self) -> None:
        while self._waiting:
            other = self._waiting.popleft()
            if not other.done():
                other.set_result(None)
                return
        self._out -= 1

    def _pop(self) -> OwnConnection | None:
        """Take the connection that was used last, if it is still good."""
        while self._idle:
            connection, _ = self._idle.pop()
            if silent(connection.pgconn):
                return connection
            discard(connection)
        return None

    async def _new(self) -> OwnConnection:
        """Connect, trying again for a while, and taking what comes back to the pool meanwhile."""
        tries = Tries(self._seconds, monotonic())
        while True:
            try:
                return await self._connector.attempt()
            except psycopg.Error as error:
                others = len(self._idle) + self._out - 1
                pause = tries.pause(error, self._connector.where, others, monotonic(), random.random())
            until = monotonic() + pause
            while monotonic() < until:
                if (found := self._pop()) is not None:
                    return found
                await asyncio.sleep(GLANCE)

    def _shrink(self) -> None:
        """Close connections that nobody has used for a while."""
        self._timer = None
        now = monotonic()
        while self._idle and self._idle[0][1] <= now - MAX_IDLE:
            discard(self._idle.popleft()[0])
        if self._idle:
            left = self._idle[0][1] + MAX_IDLE - now
            self._timer = asyncio.get_running_loop().call_later(max(left, 0.1), self._shrink)

    def drop_idle(self) -> None:
        """Close what is not in use."""
        while self._idle:
            discard(self._idle.pop()[0])

    def close(self) -> None:
        """Close everything; what is in use is closed when it comes back."""
        self.closed = True
        self.drop_idle()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Lease(AbstractAsyncContextManager[OwnConnection]):
    """A connection for a block. What is begun in it is ended in it: no commit or rollback is asked for."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __aenter__(self) -> OwnConnection:
        self._connection = await self._pool.take()
        return self._connection

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._pool.give_back(self._connection, error)


def discard(connection: OwnConnection) -> None:
    """Close a connection, whatever its state."""
    connection.pgconn.finish()
