"""A process that forks others: forked itself before its worker has connections and threads, and never having any.

The worker asks through a socket; the zygote forks, signals and reaps. Pids are its own business, because only the
one who reaps a process knows that its pid has not passed to another.
"""

import contextlib
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from pgwerk.errors import WerkError
from pgwerk.workers.forking import signals
from pgwerk.workers.forking.channel import Channel
from pgwerk.workers.forking.zygote_server import ASK, LEAVE, LEAVE_SECONDS, SIGNAL, SPAWN, TELL, serve
from pgwerk.workers.supervising.child import flush

_forking = threading.Lock()
"""Held while a zygote is made, lest another one inherits its end of the socket and keeps it open."""


@dataclass(frozen=True)
class Ending:
    """How a child ended."""

    status: int
    peak: int
    """The most memory it held, in bytes."""

    def __str__(self) -> str:
        if self.status < 0:
            return f"its process could not be forked: {os.strerror(-self.status)}"
        code = os.waitstatus_to_exitcode(self.status)
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with {code}"
        return f"its process {how} (peak memory {self.peak // 2**20} MB)"


class HostedChild:
    """A child as the worker holds it."""

    def __init__(self, zygote: "Zygote", number: int, connection: socket.socket) -> None:
        self._zygote = zygote
        self.number = number
        """Never used twice, unlike a pid."""
        self.channel = Channel(connection)
        self.pid = 0
        """To look at; signals go through the zygote. 0 until it has said that it is ready."""
        self.jobs = 0
        self._ending: Ending | None = None
        self._ended = threading.Event()

    def signal(self, number: int) -> None:
        """Send a signal, if it still lives."""
        self._zygote.ask(SIGNAL, self.number, number)

    def kill(self) -> None:
        """Kill it and what it started, if it still lives."""
        self.signal(signal.SIGKILL)

    def ending(self, seconds: float) -> Ending | None:
        """How it ended; None when it has not within *seconds*, or nobody knows."""
        _ = self._ended.wait(seconds)
        return self._ending

    def ended(self, ending: Ending | None) -> None:
        """Take note of its end."""
        self._ending = ending
        self._ended.set()
        # Its end of the socket may live on in a process that it started.
        self.channel.hang_up()


class Zygote:
    """The worker's hold on its zygote, which exists from here on and until `close`.

    *host* is what a child does with its socket and its slot; it never returns.
    """

    def __init__(self, host: Callable[[socket.socket, int], NoReturn]) -> None:
        parent = os.getpid()
        flush()
        with _forking, warnings.catch_warnings():
            # Other threads of this process may hold locks; the zygote takes none that they could.
            warnings.simplefilter("ignore", DeprecationWarning)
            ours, theirs = socket.socketpair()
            self.pid = signals.fork()
            (theirs if self.pid else ours).close()
        if self.pid == 0:
            serve(theirs, parent, host)
        self._control = ours
        self._asking = threading.Lock()
        self._children: dict[int, HostedChild] = {}
        self._number = 0
        self._closing = False
        self.dead: WerkError | None = None
        """Why no more children can be had."""
        self._on_death: Callable[[WerkError], None] | None = None
        self._watcher = threading.Thread(target=self._watch, name="werk-zygote", daemon=True)
        self._watcher.start()

    def watch(self, on_death: Callable[[WerkError], None]) -> None:
        """Have *on_death* called, in a thread of ours, when the zygote dies unasked."""
        self._on_death = on_death
        if self.dead is not None:
            on_death(self.dead)

    def spawn(self, slot: int) -> HostedChild:
        """Ask for a child. When it cannot be forked its channel is at its end; raises WerkError without a zygote."""
        ours, theirs = socket.socketpair()
        with theirs, self._asking:
            self._number += 1
            child = HostedChild(self, self._number, ours)
            self._children[child.number] = child
            try:
                _ = socket.send_fds(self._control, [ASK.pack(SPAWN, child.number, slot)], [theirs.fileno()])
            except OSError:
                del self._children[child.number]
                ours.close()
                raise self.dead or WerkError("the fork server is not responding") from None
        return child

    def ask(self, what: int, child: int = 0, number: int = 0) -> None:
        """Ask for something else; nothing happens when the zygote is gone, for so are its children."""
        with self._asking, contextlib.suppress(OSError):
            self._control.sendall(ASK.pack(what, child, number))

    def hang_up(self) -> None:
        """Let the children end: those that wait for a job do so at once."""
        for child in list(self._children.values()):
            child.channel.hang_up()

    def close(self) -> None:
        """End the zygote; children that do not end within `LEAVE_SECONDS` are killed."""
        self._closing = True
        self.ask(LEAVE)
        self._watcher.join(LEAVE_SECONDS + 1.0)
        if self._watcher.is_alive():
            # Not reaped by the watcher, so the pid is still the zygote's.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._watcher.join(1.0)
        self._control.close()

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            while len(told := self._control.recv(TELL.size, socket.MSG_WAITALL)) == TELL.size:
                number, status, peak = TELL.unpack(told)
                child = self._children.pop(number, None)
                if child is not None:
                    child.ended(Ending(status, peak))
        how = "is gone"
        with contextlib.suppress(ChildProcessError):
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with {code}"
        with self._asking:
            self.dead = WerkError(f"the fork server (pid {self.pid}) {how}")
        if not self._closing and self._on_death is not None:
            self._on_death(self.dead)
        for child in list(self._children.values()):
            child.ended(None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
