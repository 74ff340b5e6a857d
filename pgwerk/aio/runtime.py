"""What an asyncio app does with its database: it connects at the first use, runs operations, and waits."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from pgwerk._app.definition import App
from pgwerk._app.once import Once
from pgwerk._core.operation import Operation, Procedure, R
from pgwerk._postgres.callers_aio import usable_connection
from pgwerk.aio.executor import Executor
from pgwerk.aio.loops import PerLoop
from pgwerk.aio.waiting import WaitingRoom


class Runtime:
    """The connected half of an app; what needs no database is in its `App`.

    Whatever reaches the database is made here: the executor and the waiting room. Workers take those of the
    synchronous face.
    """

    face: ClassVar[str] = "aio"

    def __init__(self, app: App) -> None:
        self.app = app
        self._executor = Once(self._make_executor)
        self._room = Once(self._make_room)
        self._locks: PerLoop[asyncio.Lock] = PerLoop(lambda _: None)
        """For the first connect: as many tasks as there are need not all look whether the tables are there."""

    # What is made at first use ----------------------------------------------------

    def _make_executor(self) -> Executor:
        config = self.app.config
        return Executor(
            self.app.resolved_dsn(), self.app.names,
            pool_size=config.pool_size, pooled=config.pool, pool_timeout=config.pool_timeout,
        )  # fmt: skip

    def _make_room(self) -> WaitingRoom:
        return WaitingRoom(self.executor, self.app.names.done_channel, self.app.listen_dsn)

    @property
    def executor(self) -> Executor:
        """What runs operations for this app."""
        return self._executor()

    @property
    def room(self) -> WaitingRoom:
        """Where tasks wait for the ends of jobs."""
        return self._room()

    # Using it ---------------------------------------------------------------------

    async def connect(self) -> None:
        """Create or check the tables, once."""
        if self.app.state.migrated:
            return
        if self.app.dsn.startswith("embedded:") and self._executor.made is None:
            # Starting a server would block the loop.
            _ = await asyncio.to_thread(self._executor)
        async with self._locks.get() or self._locks.put(asyncio.Lock()):
            if not self.app.state.migrated:
                await self.executor.perform(self.app.preparing())

    async def run(self, op: Operation[R]) -> R:
        """Run an operation, once the tables are there."""
        await self.connect()
        return await self.executor.run(op)

    async def perform(self, steps: Procedure[R], conn: Any = None) -> R:
        """Perform a procedure, on a connection of the caller's if one is given."""
        return await self.executor.perform(steps, await self.joined(conn))

    async def joined(self, conn: Any) -> Any:
        """Find the driver's connection behind *conn*; None without one. The tables are there afterwards."""
        connection = await usable_connection(conn) if conn is not None else None
        if connection is None or self.app.auto_migrate:
            await self.connect()
        return connection

    async def wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        """Return when all these jobs have ended; raises JobTimeout and JobNotFound."""
        await self.connect()
        await self.room.wait(ids, timeout, poll_interval)

    async def close(self) -> None:
        """Close what belongs to this loop."""
        if (room := self._room.made) is not None:
            room.close()
        if (executor := self._executor.made) is not None:
            await executor.close()
        faces = self.app.faces
        if next(iter(faces), None) == self.face and "sync" in faces:
            # A worker, for instance, has asked this app for it: nobody else will close it.
            await asyncio.to_thread(faces["sync"].close)
