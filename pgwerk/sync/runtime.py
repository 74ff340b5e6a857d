"""What a synchronous app does with its database: it connects at the first use, runs operations, and waits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pgwerk._app.definition import App
from pgwerk._app.once import Once
from pgwerk._core.operation import Operation, Procedure, R
from pgwerk._postgres.callers import usable_connection
from pgwerk.sync.executor import Executor
from pgwerk.sync.waiting import WaitingRoom

if TYPE_CHECKING:
    from pgwerk._postgres.worker_connection import WorkerConnection
    from pgwerk._postgres.worker_listener import WorkerListener


class Runtime:
    """The connected half of an app; what needs no database is in its `App`.

    Whatever reaches the database is made here: the executor, the waiting room, a worker's two connections.
    """

    face: ClassVar[str] = "sync"

    def __init__(self, app: App) -> None:
        self.app = app
        self._executor = Once(self._make_executor)
        self._room = Once(self._make_room)

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
        """Where threads wait for the ends of jobs."""
        return self._room()

    def worker_connection(self) -> "WorkerConnection":
        """Make the connection of a worker for claims and outcomes; it connects later."""
        from pgwerk._postgres.worker_connection import WorkerConnection  # noqa: PLC0415  # producers need none

        return WorkerConnection(self.executor)

    def worker_listener(self) -> "WorkerListener":
        """Make the connection of a worker for heartbeats and notifications; it connects later."""
        from pgwerk._postgres.worker_listener import Line, WorkerListener  # noqa: PLC0415  # producers need none

        return WorkerListener(self.executor, Line(self.executor, [self.app.names.wake_channel], self.app.listen_dsn))

    # Using it ---------------------------------------------------------------------

    def connect(self) -> None:
        """Create or check the tables, once."""
        if not self.app.state.migrated:
            self.executor.perform(self.app.preparing())

    def run(self, op: Operation[R]) -> R:
        """Run an operation, once the tables are there."""
        self.connect()
        return self.executor.run(op)

    def perform(self, steps: Procedure[R], conn: Any = None) -> R:
        """Perform a procedure, on a connection of the caller's if one is given."""
        return self.executor.perform(steps, self.joined(conn))

    def joined(self, conn: Any) -> Any:
        """Find the driver's connection behind *conn*; None without one. The tables are there afterwards."""
        connection = usable_connection(conn) if conn is not None else None
        if connection is None or self.app.auto_migrate:
            self.connect()
        return connection

    def wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        """Return when all these jobs have ended; raises JobTimeout and JobNotFound."""
        self.connect()
        self.room.wait(ids, timeout, poll_interval)

    def forked(self) -> None:
        """Take note that this process is a worker's child: the tables are checked, its own hooks have not run."""
        self.app.forked_from_a_worker()

    def close(self) -> None:
        """Close the pool, and end the listening thread."""
        if (room := self._room.made) is not None:
            room.close()
        if (executor := self._executor.made) is not None:
            executor.close()


def runtime_of(werk: Any) -> Runtime:
    """Give the package's own code the runtime behind a synchronous app."""
    runtime: Runtime = werk._runtime  # noqa: SLF001  # what users must not need
    return runtime
