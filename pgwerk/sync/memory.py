"""Memory as the place of a synchronous app's jobs, and what a worker in this process needs of it."""

from collections import deque
from collections.abc import Callable
from typing import Any

from pgwerk._app.definition import App
from pgwerk._app.ports import WorkerConnection
from pgwerk._core.operation import Operation, Procedure, R
from pgwerk._memory import backend as memory
from pgwerk._memory.messages import DONE, WAKE, Listener
from pgwerk._memory.store import Store
from pgwerk.errors import DatabaseError, WerkError
from pgwerk.sync.waiting import WaitingRoom


class MemoryBackend:
    """The jobs of one store, which the asyncio face of the app shares."""

    across_processes = False

    def __init__(self, app: App) -> None:
        self.store = memory.store_for(app.dsn, app.shared)
        self.where = app.where

    def run(self, op: Operation[R], connection: Any = None) -> R:  # noqa: ARG002  # there is none
        """Run an operation; what it raises leaves nothing behind."""
        return memory.run(self.store, op)

    def perform(self, steps: Procedure[R], connection: Any = None) -> R:  # noqa: ARG002  # there is none
        """Run each operation that a procedure asks for."""
        return memory.perform(self.store, steps)

    def usable(self, conn: Any) -> Any:
        """Refuse: there are no connections; raises ConfigError."""
        raise memory.no_connections(conn)

    def room(self) -> WaitingRoom:
        """Make the place where threads wait for the ends of jobs."""
        return WaitingRoom(self.run, lambda: self.store.listener(DONE))

    def worker_connection(self) -> "MemoryWorkerConnection":
        """Make a worker's connection for claims and outcomes."""
        return MemoryWorkerConnection(self.store, self.where)

    def worker_listener(self) -> "MemoryWorkerListener":
        """Make a worker's connection for heartbeats and notifications."""
        return MemoryWorkerListener(self.store)

    def run_once(self, op: Operation[R] | None) -> R | None:
        """Run an operation."""
        return self.run(op) if op is not None else None

    def drop_idle(self) -> None:
        """Nothing is idle."""

    def close(self) -> None:
        """Nothing is open; the store stays as it is."""


class MemoryWorkerConnection(WorkerConnection):
    """What a worker claims and settles over; it cannot be lost."""

    def __init__(self, store: Store, where: str) -> None:
        super().__init__(where)
        self._store = store
        self._connected = False

    @property
    def connected(self) -> bool:
        """Whether it was connected, and not closed since."""
        return self._connected

    def connect(self) -> None:
        """Connect."""
        self._connected = self.ever_connected = True

    def run(
        self,
        op: Operation[R],
        meanwhile: Callable[[], None] | None = None,
        patience: float | None = None,  # noqa: ARG002  # nobody holds a lock
    ) -> R:
        """Run an operation; what it raises leaves nothing behind."""
        self.asked += 1
        try:
            return memory.run(self._store, op, meanwhile)
        except WerkError:
            raise
        except Exception as error:
            raise DatabaseError(f"the in-memory store failed: {type(error).__name__}: {error}") from error

    def cut(self) -> None:
        """Nothing is waited for."""

    def close(self) -> None:
        """Close it."""
        self._connected = False


class MemoryWorkerListener:
    """Over which a worker says that it lives, and hears notifications."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listener = Listener(store.messages, [WAKE])
        self.heard: deque[str] = deque()

    @property
    def connected(self) -> bool:
        """Whether it listens."""
        return self._listener.fileno() >= 0

    @property
    def listening(self) -> bool:
        """Whether it listens."""
        return self.connected

    def listen(self) -> bool:
        """Begin to listen."""
        if not self.connected:
            self._listener.connect()
        return True

    def connect(self) -> None:
        """Begin to listen."""
        _ = self.listen()

    def run(self, op: Operation[R]) -> R:
        """Run an operation."""
        return memory.run(self._store, op)

    def fileno(self) -> int:
        """What to select on; -1 while it does not listen."""
        return self._listener.fileno()

    def drain(self) -> None:
        """Take what was told."""
        self.heard.extend(payload for _, payload in self._listener.drain())

    def wants_proof(self) -> bool:
        """Whether it has to be seen that notifications arrive: they do."""
        return False

    def look_for_proof(self, payload: str | None = None) -> None:
        """Nothing has to be proven."""

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()
