"""What the zygote does: it forks, signals and reaps children until its worker leaves or dies. One thread, no locks."""

import contextlib
import ctypes
import errno
import faulthandler
import gc
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from pgwerk.workers.forking import signals

SPAWN, SIGNAL, LEAVE = range(3)
ASK = struct.Struct("=BQi")
"""What is wanted; which child; the slot it is for, or the signal it gets."""
TELL = struct.Struct("=QiQ")
"""Which child ended; its wait status, or minus the errno of a fork that failed; its peak memory in bytes."""

LEAVE_SECONDS = 5.0
"""How long children have to end by themselves, shutdown hooks included, when the worker ends."""

_PR_SET_PDEATHSIG = 1
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024
_libc: ctypes.CDLL | None = ctypes.CDLL(None) if sys.platform == "linux" else None


def serve(control: socket.socket, parent: int, host: Callable[[socket.socket, int], NoReturn]) -> NoReturn:
    """Be a zygote, then exit; all children are gone by then."""
    try:
        die_with(parent)
        _set_up_signals()
        # What is alive now is shared with the children as long as nobody writes to it, not even to collect it.
        gc.freeze()
        _Nursery(control, host).run()
    finally:
        os._exit(0)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, where it does that; end if it is dead already."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _set_up_signals() -> None:
    for number in signal.valid_signals():
        # What the app's own process does at a signal is not for us.
        if callable(signal.getsignal(number)):
            _ = signal.signal(number, signal.SIG_DFL)
    # They may go to a whole group or service; the worker decides what they mean.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        _ = signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(Exception):  # no standard error
        faulthandler.enable(file=2)
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)


class _Nursery:
    def __init__(self, control: socket.socket, host: Callable[[socket.socket, int], NoReturn]) -> None:
        self._control = control
        self._host = host
        self._pids: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._deadline: float | None = None
        """When children are killed that do not end by themselves, once the worker leaves."""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        _ = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        _ = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve until the worker leaves or dies."""
        # Not select, which knows no descriptor above 1023.
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        try:
            while self._pids or self._deadline is None:
                left = None if self._deadline is None else self._deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                ready = {fd for fd, _ in poll.poll(None if left is None else left * 1000 + 1)}
                if self._woken in ready:
                    with contextlib.suppress(BlockingIOError):
                        while os.read(self._woken, 4096):
                            pass
                    self._reap(os.WNOHANG)
                if self._control.fileno() in ready and not self._obey():
                    break
        finally:
            for number in list(self._pids):
                self._signal(number, signal.SIGKILL)
            with contextlib.suppress(OSError):
                self._reap(0)

    def _obey(self) -> bool:
        """Do what the worker asks for; False when it is gone."""
        # The worker sends whole records, and the socket keeps those with a descriptor apart.
        asked, fds, _, _ = socket.recv_fds(self._control, ASK.size, 1)
        if len(asked) < ASK.size:
            return False
        what, child, number = ASK.unpack(asked)
        if what == SPAWN:
            self._spawn(child, number, fds)
        elif what == SIGNAL:
            self._signal(child, number)
        else:
            self._deadline = time.monotonic() + LEAVE_SECONDS
        return True

    def _spawn(self, child: int, slot: int, fds: list[int]) -> None:
        if not fds:
            self._tell(child, -errno.EMFILE, 0)
            return
        zygote = os.getpid()
        try:
            pid = signals.fork()
        except OSError as error:
            self._tell(child, -(error.errno or 1), 0)
            os.close(fds[0])
            return
        if pid == 0:
            try:
                self._leave_the_nursery(zygote)
                self._host(socket.socket(fileno=fds[0]), slot)
            finally:
                os._exit(1)
        os.close(fds[0])
        self._pids[child] = pid
        self._numbers[pid] = child

    def _leave_the_nursery(self, zygote: int) -> None:
        """In the child: keep nothing that is the zygote's."""
        _ = signal.set_wakeup_fd(-1)
        _ = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        die_with(zygote)
        # A group of its own, to be killed with all that a handler started.
        os.setpgid(0, 0)
        self._control.close()
        os.close(self._woken)
        os.close(self._wake)

    def _signal(self, child: int, number: int) -> None:
        pid = self._pids.get(child)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if number == signal.SIGKILL:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, number)

    def _reap(self, options: int) -> None:
        while self._pids:
            pid, status, usage = os.wait4(-1, options)
            if not pid:
                return
            child = self._numbers.pop(pid, None)
            if child is not None:
                del self._pids[child]
                self._tell(child, status, _peak(usage))

    def _tell(self, child: int, status: int, peak: int) -> None:
        self._control.sendall(TELL.pack(child, status, peak))


def _peak(usage: "resource.struct_rusage") -> int:
    return usage.ru_maxrss * _RSS_UNIT
