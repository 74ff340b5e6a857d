"""What an app opened at import and a fork would break: threads that end, sockets that are shared."""

import logging
import os
import socket
import stat
import threading
from dataclasses import dataclass

logger = logging.getLogger("pgwerk.worker")

STANDARD = 3
"""Standard input, output and error are below; the files that a service manager passes begin here."""


@dataclass(frozen=True)
class Conversation:
    """A socket that is connected."""

    fd: int
    peer: str

    def __str__(self) -> str:
        """Name it as a person would look for it."""
        kind = "Postgres at " if ".s.PGSQL." in self.peer or self.peer.endswith(":5432") else ""
        return f"{kind}{self.peer} (fd {self.fd})"


def warn_about_imports() -> None:
    """Name what was begun before the fork and will not work after it."""
    threads = other_threads()
    if threads:
        logger.warning(
            "importing the app started threads that will not exist in the worker's children: %s. "
            "Start them in an on_startup hook instead.",
            ", ".join(threads),
        )
    sockets = conversations()
    if sockets:
        logger.warning(
            "importing the app opened connections that all children of the worker would share: %s. "
            "Open them in an on_startup hook or at first use instead.",
            ", ".join(map(str, sockets)),
        )


def other_threads() -> list[str]:
    """Name the threads beside the main and the calling one."""
    ours = (threading.main_thread(), threading.current_thread())
    return sorted(thread.name for thread in threading.enumerate() if thread not in ours)


def conversations() -> list[Conversation]:
    """Find this process's own sockets that are connected to somebody; none where that cannot be seen.

    Not those that it was started with: they have no close-on-exec flag, or nobody could have passed them on.
    """
    try:
        fds = sorted(int(name) for name in os.listdir("/dev/fd"))  # noqa: PTH208  # numbers, not paths
    except OSError:
        return []
    passed = STANDARD + _passed_on()
    return [Conversation(fd, peer) for fd in fds if fd >= passed and (peer := _peer(fd)) is not None]


def _passed_on() -> int:
    """How many sockets systemd has passed to us."""
    try:
        return int(os.environ["LISTEN_FDS"]) if int(os.environ["LISTEN_PID"]) == os.getpid() else 0
    except (KeyError, ValueError):
        return 0


def _peer(fd: int) -> str | None:
    """Who is at the other end; None for what is no socket of ours, only listens, or is a pair within a program."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode) or os.get_inheritable(fd):
            return None
        with socket.socket(fileno=os.dup(fd)) as ours:
            peer = ours.getpeername()
    except OSError:
        return None
    if isinstance(peer, tuple):
        host, port = peer[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    name = peer.decode(errors="replace") if isinstance(peer, bytes) else str(peer)
    return name.replace("\0", "@", 1) or None
