"""How a process that must not start threads writes its log: only where there is room, so that it never waits.

The parent of the prefork worker replaces children that die. If it waited for a pipe that nobody reads, it would not. A
line for which there is no room is dropped and counted, and the count is written as soon as there is room again.
"""

import contextlib
import copy
import logging
import os
import select
from collections.abc import Iterator

from pgwerk.workers.reporting.log_writer import HANDED_OVER, steady

ROOM = 4096
"""Bytes that a pipe takes without blocking when it says that it can be written to (PIPE_BUF of Linux)."""
SHORT = 1000
"""Characters that are left of a line which is longer than that."""


class UnblockedLog(logging.Filter):
    """Stands before the handlers of a logger, and calls those that can write now."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()
        self._dropped: dict[logging.Handler, int] = {}
        """How many lines each handler has missed."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Have a record written where there is room; True in a process that was forked from ours."""
        if os.getpid() != self._pid:
            return True
        for handler in _handlers(logging.getLogger(record.name)):
            if record.levelno >= handler.level:
                with contextlib.suppress(Exception):
                    self._write(handler, record)
        return False

    def _write(self, handler: logging.Handler, record: logging.LogRecord) -> None:
        fd = _pipe_of(handler)
        if fd is None:
            _ = handler.handle(record)
            return
        self._tell(handler, fd)
        if handler in self._dropped or not _has_room(fd):
            self._dropped[handler] = self._dropped.get(handler, 0) + 1
        else:
            _ = handler.handle(_shortened(handler, record))

    def tell(self) -> None:
        """Say how many lines were dropped, where there is room by now."""
        for handler in list(self._dropped):
            with contextlib.suppress(Exception):
                self._tell(handler, _pipe_of(handler))

    def _tell(self, handler: logging.Handler, fd: int | None) -> None:
        count = self._dropped.get(handler)
        if count is None or (fd is not None and not _has_room(fd)):
            return
        del self._dropped[handler]
        text = "%d log lines of this process were dropped: what they are written to was full"
        record = logging.getLogger("pgwerk.worker").makeRecord(
            "pgwerk.worker", logging.WARNING, __file__, 0, text, (count,), None
        )
        _ = handler.handle(record)


def _handlers(logger: logging.Logger) -> Iterator[logging.Handler]:
    """The handlers that a record of this logger reaches."""
    found = False
    at: logging.Logger | None = logger
    while at is not None:
        for handler in at.handlers:
            found = True
            yield handler
        at = at.parent if at.propagate else None
    if not found and logging.lastResort is not None:
        yield logging.lastResort


def _pipe_of(handler: logging.Handler) -> int | None:
    """The descriptor that a handler writes to, where it has one that could be full."""
    try:
        fd = getattr(handler, "stream").fileno()  # noqa: B009  # most handlers have none
    except Exception:  # noqa: BLE001  # any class of the app's
        return None
    return fd if isinstance(fd, int) and fd >= 0 else None


def _has_room(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    # A pipe that nobody will read any more does not make us wait either.
    return bool(poll.poll(0))


def _shortened(handler: logging.Handler, record: logging.LogRecord) -> logging.LogRecord:
    """The record, or what there is room for of it."""
    if len(handler.format(record).encode(errors="replace")) < ROOM:
        return record
    short = copy.copy(record)
    short.msg, short.args = f"{record.getMessage()[:SHORT]} … (shortened)", ()
    short.exc_info = short.exc_text = short.stack_info = None
    return short


@contextlib.contextmanager
def unblocked() -> Iterator[UnblockedLog]:
    """Let nothing that a worker's loggers say make this process wait, until the end of the block."""
    steady()
    gate = UnblockedLog()
    loggers = [logging.getLogger(name) for name in HANDED_OVER]
    for logger in loggers:
        logger.addFilter(gate)
    try:
        yield gate
    finally:
        for logger in loggers:
            logger.removeFilter(gate)
