"""How a worker and the processes of its handlers talk: messages over a socket, and a few bytes that both see."""

import mmap
import pickle
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pgwerk._handlers.run import Interruption
from pgwerk.errors import JobAborted, JobTimeout, WorkerShutdown

_LENGTH = struct.Struct("=Q")
_SMALL = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ready:
    """The first message of a child: it can run jobs."""

    pid: int


@dataclass(frozen=True, slots=True)
class Unusable:
    """Instead of Ready: a startup hook failed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the running job is, as JSON text."""

    text: str


class Channel:
    """Sends and receives pickled messages of any size. Both ends are processes of one worker."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self.sending = threading.Lock()
        """Held while a message is on its way; an exception in the middle would leave half of one."""

    def send(self, message: Any) -> None:
        """Send one message; raises OSError when the other end is gone."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with self.sending:
            if len(data) < _SMALL:
                self._socket.sendall(_LENGTH.pack(len(data)) + data)
            else:
                self._socket.sendall(_LENGTH.pack(len(data)))
                self._socket.sendall(data)

    def receive(self, begun: Callable[[], None] | None = None) -> Any:
        """Wait for the next message; *begun* is called at its first byte. Raises EOFError, OSError."""
        (size,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if begun is not None:
            begun()
        return pickle.loads(self._read(size))  # noqa: S301  # from a process of our own

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return data

    def hang_up(self) -> None:
        """Let both ends read no more than what is on its way; from any thread."""
        # Closing would not do: another process may have inherited this end.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up and close this end."""
        self.hang_up()
        self._socket.close()


_REASONS: tuple[Interruption | None, ...] = (None, JobTimeout, JobAborted, WorkerShutdown)


class Board:
    """Bytes shared by a worker and the processes forked after it was made: who writes needs no message."""

    def __init__(self, slots: int) -> None:
        self._bytes = mmap.mmap(-1, 1 + 2 * slots)

    @property
    def stopping(self) -> bool:
        """Whether the worker is on its way out."""
        return self._bytes[0] != 0

    def stop(self) -> None:
        """Say that the worker is on its way out."""
        self._bytes[0] = 1

    def wipe(self, slot: int) -> None:
        """Prepare a slot for its next job."""
        self._bytes[1 + 2 * slot] = self._bytes[2 + 2 * slot] = 0

    def reason(self, slot: int) -> Interruption | None:
        """Why the job of a slot is interrupted, if it is."""
        return _REASONS[self._bytes[1 + 2 * slot]]

    def interrupt(self, slot: int, reason: Interruption) -> None:
        """Say why the job of a slot is interrupted; a signal then makes its process look."""
        self._bytes[1 + 2 * slot] = _REASONS.index(reason)

    def begun(self, slot: int) -> bool:
        """Whether the job of a slot has reached its process."""
        return self._bytes[2 + 2 * slot] != 0

    def begin(self, slot: int) -> None:
        """Say that the job of a slot has reached its process."""
        self._bytes[2 + 2 * slot] = 1
