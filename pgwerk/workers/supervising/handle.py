"""A child process as its parent sees it."""

import contextlib
import os
from dataclasses import dataclass


@dataclass
class ChildHandle:
    """A child process as the parent holds it."""

    pid: int
    worker_id: str
    slot: int
    pipe: int
    """Our end: what is written is an order, and its closing says that we are gone."""
    pidfd: int
    """Can be read when the process ends; -1 where there is no such thing."""
    too_large: bool = False
    """Whether it is to end because of the memory that it uses."""
    doom: str | None = None
    """Why it was killed, if we did that."""

    def close(self) -> None:
        """Let go of what belongs to it."""
        os.close(self.pipe)
        if self.pidfd >= 0:
            os.close(self.pidfd)

    def tell(self, order: bytes) -> None:
        """Write an order; it may be gone."""
        with contextlib.suppress(BrokenPipeError):
            _ = os.write(self.pipe, order)

    def signal(self, number: int) -> None:
        """Send a signal; it may be gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def open_pidfd(pid: int) -> int:
    """Open a descriptor that can be read when the process ends; -1 where there is no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def is_suspended(pid: int) -> bool:
    """Whether a process was stopped by a signal; True where that cannot be known."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # on the way of every look
            # The name of the program comes before, in parentheses, and may contain anything.
            return file.read().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return True
