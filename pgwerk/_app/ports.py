"""What an app needs of the place where its jobs are: the ports, and which scheme of a DSN names which place.

Postgres (`postgresql://` and its spellings, `embedded://`) and memory (`memory://`) implement them, for each face in a
module of its own: `sync/postgres.py`, `sync/memory.py`, `aio/postgres.py`, `aio/memory.py`.
"""

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Protocol

from pgwerk._core.operation import Operation, Procedure, R, walk_through
from pgwerk._handlers.run import monotonic
from pgwerk.errors import DatabaseError, SerializationError, WerkError

logger = logging.getLogger("pgwerk.worker")

ASKING_SECONDS = 75.0
"""Seconds after which no answer can come any more: well beyond when Postgres gives up on a statement."""
ANSWER_SECONDS = 5.0
"""How long Postgres may take to answer a heartbeat, before the connection is given up."""


class Place(Enum):
    """Where jobs can be."""

    POSTGRES = "postgres"
    EMBEDDED = "embedded"
    MEMORY = "memory"


def place_of(dsn: str) -> Place:
    """Where the jobs of a DSN are; every scheme but two is Postgres's."""
    scheme = dsn.partition(":")[0]
    return Place(scheme) if scheme in ("embedded", "memory") else Place.POSTGRES


# The synchronous side ---------------------------------------------------------------


class Room(Protocol):
    """Where threads wait for the ends of jobs."""

    def wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        """Return when all these jobs have ended; raises JobTimeout and JobNotFound."""
        ...

    def close(self) -> None:
        """Listen no more; who still waits goes on polling."""
        ...


class Listener(Protocol):
    """Hears what is told on some channels, for one thread."""

    deaf: bool
    """Whether it is of no use: whoever listens has to poll."""

    def connect(self) -> None:
        """Begin to listen; raises WerkError."""
        ...

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Wait up to *seconds* for something to be heard, as (channel, payload); raises ConnectionFailed."""
        ...

    def close(self) -> None:
        """Listen no more."""
        ...


class WorkerListener(Protocol):
    """Over which a worker says that it lives, and hears notifications: no wait on it is without an end."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        ...

    @property
    def listening(self) -> bool:
        """Whether notifications can arrive."""
        ...

    @property
    def heard(self) -> "deque[str]":
        """The payloads that have arrived; taken from its left."""
        ...

    def listen(self) -> bool:
        """Begin to listen if that is not so; False when it cannot be."""
        ...

    def connect(self) -> None:
        """Connect, if need be only to be able to say that the worker lives; raises WerkError."""
        ...

    def run(self, op: Operation[R]) -> R:
        """Run an operation; raises ConnectionFailed when the connection is gone."""
        ...

    def fileno(self) -> int:
        """What to select on; -1 without a connection."""
        ...

    def drain(self) -> None:
        """Take what has arrived; raises ConnectionFailed when the connection is gone."""
        ...

    def wants_proof(self) -> bool:
        """Whether somebody should notify it now, to see whether that arrives; asks once."""
        ...

    def look_for_proof(self, payload: str | None = None) -> None:
        """Take note of what was heard; say so once, when nothing is."""
        ...

    def close(self) -> None:
        """Close whatever is open."""
        ...


class WorkerConnection(ABC):
    """Runs a worker's operations on one connection that is kept; not for use by two threads at once.

    It also keeps the record of whether it works, with one log line for each change.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._troubled_since: float | None = None
        self.asked = 0
        """How many times anything was asked."""
        self.asking = False
        """Whether an answer is being waited for."""
        self.failures = 0
        """Consecutive failures."""
        self.ever_connected = False

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""

    @abstractmethod
    def connect(self) -> None:
        """Connect; raises ConnectionFailed."""

    @abstractmethod
    def run(self, op: Operation[R], meanwhile: Callable[[], None] | None = None, patience: float | None = None) -> R:
        """Run *op*, waiting for locks for *patience* seconds; raises ConnectionFailed when the connection is gone.

        *meanwhile* is called while an answer is awaited, as often as that may be: not at all, or again. Whatever else
        goes wrong is a WerkError.
        """

    @abstractmethod
    def cut(self) -> None:
        """Break the connection, from another thread: whoever waits for an answer gets an error."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    def perform(self, steps: Procedure[R]) -> R:
        """Run a procedure, each operation in a transaction of its own."""
        return walk_through(steps, self.run)

    def lost(self, error: WerkError) -> None:
        """Give the connection up; the first time, say so."""
        self.trouble(error)
        self.close()

    @property
    def troubled(self) -> bool:
        """Whether it has failed, and not worked since."""
        return self._troubled_since is not None

    def troubled_for(self, seconds: float) -> bool:
        """Whether it has not worked for this long."""
        since = self._troubled_since
        return since is not None and monotonic() - since > seconds

    def trouble(self, error: WerkError) -> None:
        """Count a failure; the first time, say so."""
        self.failures += 1
        if self._troubled_since is None:
            self._troubled_since = monotonic()
            logger.warning("%s; retrying until it works", error)

    def works(self) -> None:
        """Jobs can be written and claimed; the first time after trouble, say so."""
        if self._troubled_since is not None:
            logger.info("Postgres at %s answers again", self._where)
        self._troubled_since, self.failures = None, 0


class Backend(Protocol):
    """Where the jobs of a synchronous app are; used by any number of threads."""

    across_processes: bool
    """Whether other processes see the same jobs, those that a worker forks included."""

    @property
    def where(self) -> str:
        """Where that is, without a password."""
        ...

    def run(self, op: Operation[R], connection: Any = None) -> R:
        """Run an operation, on a connection of the caller's if one is given; raises its errors and WerkError."""
        ...

    def perform(self, steps: Procedure[R], connection: Any = None) -> R:
        """Run each operation that a procedure asks for, in a transaction of its own."""
        ...

    def usable(self, conn: Any) -> Any:
        """Find the driver's connection behind what a caller has; raises ConfigError where there is no such thing."""
        ...

    def room(self) -> Room:
        """Make the place where threads wait for the ends of jobs."""
        ...

    def worker_connection(self) -> WorkerConnection:
        """Make a worker's connection for claims and outcomes; it connects later."""
        ...

    def worker_listener(self) -> WorkerListener:
        """Make a worker's connection for heartbeats and notifications; it connects later."""
        ...

    def run_once(self, op: Operation[R] | None) -> R | None:
        """Run an operation on a connection made for it, without a second try; None only connects."""
        ...

    def drop_idle(self) -> None:
        """Close the connections that nobody uses."""
        ...

    def close(self) -> None:
        """Close everything; the next use begins anew."""
        ...


# The asyncio side -------------------------------------------------------------------


class AsyncRoom(Protocol):
    """Where tasks wait for the ends of jobs, each on its own loop."""

    async def wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        """Return when all these jobs have ended; raises JobTimeout and JobNotFound."""
        ...

    def close(self) -> None:
        """Listen no more on this loop; who still waits goes on polling."""
        ...


class AsyncListener(Protocol):
    """Hears one channel on the loop that connects, and calls back."""

    deaf: bool
    """Whether it is of no use: whoever listens has to poll."""
    on_loss: Callable[[], None]
    """Called when the connection is lost."""

    @property
    def connected(self) -> bool:
        """Whether it hears, as far as is known."""
        ...

    async def connect(self) -> None:
        """Begin to listen; raises WerkError."""
        ...

    def close(self) -> None:
        """Listen no more; on its loop."""
        ...

    def abandon(self) -> None:
        """Listen no more; from anywhere, also when its loop is closed."""
        ...


class AsyncBackend(Protocol):
    """Where the jobs of an asyncio app are; used by any number of tasks."""

    @property
    def where(self) -> str:
        """Where that is, without a password."""
        ...

    async def run(self, op: Operation[R], connection: Any = None) -> R:
        """Run an operation, on a connection of the caller's if one is given; raises its errors and WerkError."""
        ...

    async def perform(self, steps: Procedure[R], connection: Any = None) -> R:
        """Run each operation that a procedure asks for, in a transaction of its own."""
        ...

    async def usable(self, conn: Any) -> Any:
        """Find the driver's connection behind what a caller has; raises ConfigError where there is no such thing."""
        ...

    def room(self) -> AsyncRoom:
        """Make the place where tasks wait for the ends of jobs."""
        ...

    async def close(self) -> None:
        """Close what belongs to this loop; the next use begins anew."""
        ...


def unexpected(error: Exception) -> WerkError:
    """The error to handle in place of one that nobody foresaw."""
    if isinstance(error, UnicodeError):
        return SerializationError(f"Postgres cannot store this text in the encoding of its database: {error}")
    return DatabaseError(f"the client library failed: {type(error).__name__}: {error}")
