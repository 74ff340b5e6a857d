"""What an asyncio app does with its database: it connects at the first use, runs operations, and waits."""

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from pgwerk._app.definition import App
from pgwerk._app.once import Once
from pgwerk._app.ports import AsyncBackend, AsyncRoom, Place
from pgwerk._core.operation import Operation, Procedure, R
from pgwerk.aio.backend import backend_of
from pgwerk.aio.loops import PerLoop


class Runtime:
    """The connected half of an app; what needs no database is in its `App`.

    Whatever reaches the jobs is behind its backend, which the scheme of the DSN decides. Workers take that of the
    synchronous face.
    """

    face: ClassVar[str] = "aio"

    def __init__(self, app: App) -> None:
        self.app = app
        self._backend: Once[AsyncBackend] = Once(lambda: backend_of(app))
        self._room: Once[AsyncRoom] = Once(lambda: self.backend.room())  # noqa: PLW0108  # the backend, too, is made at the first use
        self._locks: PerLoop[asyncio.Lock] = PerLoop(lambda _: None)
        """For the first connect: as many tasks as there are need not all look whether the tables are there."""

    @property
    def backend(self) -> AsyncBackend:
        """Where the jobs are; made at the first use."""
        return self._backend()

    @property
    def room(self) -> AsyncRoom:
        """Where tasks wait for the ends of jobs."""
        return self._room()

    # Using it ---------------------------------------------------------------------

    async def connect(self) -> None:
        """Create or check the tables, once."""
        if self.app.state.migrated:
            return
        if self.app.place is Place.EMBEDDED and self._backend.made is None:
            # Starting a server would block the loop.
            _ = await asyncio.to_thread(self._backend)
        async with self._locks.get() or self._locks.put(asyncio.Lock()):
            if not self.app.state.migrated:
                await self.backend.perform(self.app.preparing())

    async def run(self, op: Operation[R]) -> R:
        """Run an operation, once the tables are there."""
        await self.connect()
        return await self.backend.run(op)

    async def perform(self, steps: Procedure[R], conn: Any = None) -> R:
        """Perform a procedure, on a connection of the caller's if one is given."""
        return await self.backend.perform(steps, await self.joined(conn))

    async def joined(self, conn: Any) -> Any:
        """Find the driver's connection behind *conn*; None without one. The tables are there afterwards."""
        connection = await self.backend.usable(conn) if conn is not None else None
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
        if (backend := self._backend.made) is not None:
            await backend.close()
        faces = self.app.faces
        if next(iter(faces), None) == self.face and "sync" in faces:
            # A worker, for instance, has asked this app for it: nobody else will close it.
            await asyncio.to_thread(faces["sync"].close)
