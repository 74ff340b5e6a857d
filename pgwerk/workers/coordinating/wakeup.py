"""Waking a thread that waits in select: by another thread, by a signal handler, by a socket."""

import contextlib
import os
import select

LONGEST = 86400.0
"""Seconds; poll() counts in an int of milliseconds."""


class Wakeup:
    """A pipe to oneself. `wake` may be called from anywhere, `wait` by one thread."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._asleep = False

    def wake(self) -> None:
        """End the present or the next wait, cheaply when nobody waits."""
        if self._asleep:
            # One byte is enough, however many finish before the sleeper gets to run.
            self._asleep = False
            self.force()

    def force(self) -> None:
        """End the present or the next wait; safe in a signal handler."""
        with contextlib.suppress(BlockingIOError, OSError):
            _ = os.write(self._write, b"w")

    def prepare(self) -> None:
        """Say that a wait is about to begin; whatever is checked after this and before the wait is not missed."""
        self._asleep = True

    def wait(self, seconds: float, *sockets: int) -> list[int]:
        """Wait until woken, until one of these sockets can be read, or for *seconds*; the readable ones."""
        # Not select(), which ends at file descriptor 1023. A socket that was closed meanwhile is ready, too: its
        # owner finds out.
        poll = select.poll()
        for fd in (self._read, *sockets):
            if fd >= 0:
                poll.register(fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(min(max(0.0, seconds), LONGEST) * 1000)]
        self._asleep = False
        if self._read in ready:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._read, 4096):
                    pass
        return [fd for fd in ready if fd != self._read]

    def close(self) -> None:
        """Close the pipe. Who wakes it later, such as a thread that was left behind, does nothing."""
        self._asleep = False
        read, self._read = self._read, -1
        write, self._write = self._write, -1
        os.close(write)
        os.close(read)
