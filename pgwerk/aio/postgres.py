"""Postgres as the place of an asyncio app's jobs."""

from collections.abc import Callable
from typing import Any

from pgwerk._app.definition import App
from pgwerk._postgres.callers_aio import usable_connection
from pgwerk.aio.executor import Executor
from pgwerk.aio.listener import Listener
from pgwerk.aio.waiting import WaitingRoom


class PostgresBackend(Executor):
    """An executor with pooled connections, and what else there is to be made of an app's settings."""

    def __init__(self, app: App) -> None:
        config = app.config
        super().__init__(
            app.resolved_dsn(), app.names,
            pool_size=config.pool_size, pooled=config.pool, pool_timeout=config.pool_timeout,
        )  # fmt: skip
        self._names = app.names
        self._listen_dsn = app.listen_dsn

    async def usable(self, conn: Any) -> Any:
        """Find the driver's connection behind whatever a caller has."""
        return await usable_connection(conn)

    def room(self) -> WaitingRoom:
        """Make the place where tasks wait for the ends of jobs."""
        return WaitingRoom(self.run, self.listener)

    def listener(self, hear: Callable[[str], None]) -> Listener:
        """Make a listener for the ends of jobs."""
        return Listener(self, self._names.done_channel, self._listen_dsn, hear)
