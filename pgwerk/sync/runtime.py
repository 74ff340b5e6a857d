"""What a synchronous app does with its database: it connects at the first use, runs operations, and waits."""

from collections.abc import Sequence
from typing import Any, ClassVar

from pgwerk._app.definition import App
from pgwerk._app.once import Once
from pgwerk._app.ports import Backend, Room
from pgwerk._core.operation import Operation, Procedure, R
from pgwerk.sync.backend import backend_of


class Runtime:
    """The connected half of an app; what needs no database is in its `App`.

    Whatever reaches the jobs is behind its backend, which the scheme of the DSN decides.
    """

    face: ClassVar[str] = "sync"

    def __init__(self, app: App) -> None:
        self.app = app
        self._backend: Once[Backend] = Once(lambda: backend_of(app))
        self._room: Once[Room] = Once(lambda: self.backend.room())  # noqa: PLW0108  # the backend, too, is made at the first use

    @property
    def backend(self) -> Backend:
        """Where the jobs are; made at the first use."""
        return self._backend()

    @property
    def room(self) -> Room:
        """Where threads wait for the ends of jobs."""
        return self._room()

    # Using it ---------------------------------------------------------------------

    def connect(self) -> None:
        """Create or check the tables, once."""
        if not self.app.state.migrated:
            self.backend.perform(self.app.preparing())

    def run(self, op: Operation[R]) -> R:
        """Run an operation, once the tables are there."""
        self.connect()
        return self.backend.run(op)

    def perform(self, steps: Procedure[R], conn: Any = None) -> R:
        """Perform a procedure, on a connection of the caller's if one is given."""
        return self.backend.perform(steps, self.joined(conn))

    def joined(self, conn: Any) -> Any:
        """Find the driver's connection behind *conn*; None without one. The tables are there afterwards."""
        connection = self.backend.usable(conn) if conn is not None else None
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
        if (backend := self._backend.made) is not None:
            backend.close()


def runtime_of(werk: Any) -> Runtime:
    """Give the package's own code the runtime behind a synchronous app."""
    runtime: Runtime = werk._runtime  # noqa: SLF001  # what users must not need
    return runtime
