"""Memory as the place of an asyncio app's jobs."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from pgwerk._app.definition import App
from pgwerk._core.operation import Operation, Procedure, R
from pgwerk._memory import backend as memory
from pgwerk._memory.messages import DONE
from pgwerk._memory.store import Store
from pgwerk.aio.waiting import WaitingRoom


class MemoryBackend:
    """The jobs of one store, which the synchronous face of the app shares. Nothing here waits for anything."""

    def __init__(self, app: App) -> None:
        self.store = memory.store_for(app.dsn, app.shared)
        self.where = app.where

    async def run(self, op: Operation[R], connection: Any = None) -> R:  # noqa: ARG002  # there is none
        """Run an operation; what it raises leaves nothing behind."""
        return memory.run(self.store, op)

    async def perform(self, steps: Procedure[R], connection: Any = None) -> R:  # noqa: ARG002  # there is none
        """Run each operation that a procedure asks for."""
        return memory.perform(self.store, steps)

    async def usable(self, conn: Any) -> Any:
        """Refuse: there are no connections; raises ConfigError."""
        raise memory.no_connections(conn)

    def room(self) -> WaitingRoom:
        """Make the place where tasks wait for the ends of jobs."""
        return WaitingRoom(self.run, lambda hear: MemoryListener(self.store, hear))

    async def close(self) -> None:
        """Nothing is open; the store stays as it is."""


class MemoryListener:
    """Hears of the ends of jobs, on the loop that connects."""

    deaf = False

    def __init__(self, store: Store, hear: Callable[[str], None]) -> None:
        self._store = store
        self._hear = hear
        self._loop: asyncio.AbstractEventLoop | None = None
        self.on_loss: Callable[[], None] = lambda: None

    @property
    def connected(self) -> bool:
        """Whether it hears."""
        return self._loop is not None

    async def connect(self) -> None:
        """Begin to listen."""
        self.close()
        self._loop = asyncio.get_running_loop()
        self._store.messages.listen(DONE, self._told)

    def _told(self, _channel: str, payload: str) -> None:
        # In the thread of whoever told. A loop that is closed has nobody who waits.
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                _ = self._loop.call_soon_threadsafe(self._hear, payload)

    def close(self) -> None:
        """Listen no more."""
        self._store.messages.stop(DONE, self._told)
        self._loop = None

    def abandon(self) -> None:
        """Listen no more; from anywhere."""
        self.close()
