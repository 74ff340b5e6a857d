"""Standard output and standard error that are closed, full, or cannot show a character."""

import contextlib
import errno
import io
import os
import sys
from typing import Any


class _Closed(io.TextIOBase):
    """Stands for a standard output that was closed before we began: who prints is told."""

    def write(self, _text: str, /) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def flush(self) -> None:
        """Flush nothing."""


def prepare() -> None:
    """Make sure that there are streams, and that no connection gets the number of one that is closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    streams: Any = sys
    if sys.stdout is None:
        streams.stdout = _Closed()
    if sys.stderr is None:
        streams.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  # until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character shows its code.
        sys.stdout.reconfigure(errors="backslashreplace")


def settle() -> None:
    """Drop what cannot be written: Python would complain when it flushes at the end, and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                number = os.open(os.devnull, os.O_WRONLY)
                _ = os.dup2(number, stream.fileno())
                os.close(number)
