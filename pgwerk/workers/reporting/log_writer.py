"""How a worker writes its log: by a thread that does nothing else, and whatever the app's handlers of logging do.

A handler of logging has a lock, which a job that logs holds while it writes: to a pipe that nobody reads, to a server
that does not answer. Whoever logs then waits. The thread that keeps a worker alive must not, so it only puts its
records into a queue, which has no lock that could stay taken.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue

OURS = ("pgwerk", "pgwerk.worker", "pgwerk.listener", "pgwerk.waiting", "pgwerk.job")
HANDED_OVER = ("pgwerk.worker", "pgwerk.listener", "psycopg", "psycopg.pool")
"""Loggers in which the coordinator's thread says something. What handlers of jobs say is none of them."""
MOST = 10_000
"""Records that wait to be written, at most: those that come when there are so many are lost, and counted."""
LAST_SECONDS = 2.0
"""How long a worker that ends waits for its last lines to be written."""


class SteadyLogger(logging.Logger):
    """A logger that a configuration of logging cannot silence by not naming it, nor break."""

    @property
    def disabled(self) -> bool:
        """Whether somebody switched it off; `disable_existing_loggers`, which means all and nobody, does not."""
        return bool(self.__dict__.get("_off", False))

    @disabled.setter
    def disabled(self, value: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]  # an attribute there
        if not value or sys._getframe(1).f_globals.get("__name__") != "logging.config":  # noqa: SLF001  # who says so
            self.__dict__["_off"] = bool(value)

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        """Whether a record of this level would be shown; without the cache, whose lock all of logging shares."""
        return not self.disabled and self.manager.disable < level and level >= self.getEffectiveLevel()

    def handle(self, record: logging.LogRecord) -> None:
        """Have a record written; a handler that raises costs the line, not the worker."""
        with contextlib.suppress(Exception):
            super().handle(record)


def steady() -> None:
    """Make our loggers steady, and enable them: a configuration may have been there before."""
    for name in OURS:
        logger = logging.getLogger(name)
        kind = type(logger)
        if issubclass(kind, SteadyLogger):
            continue
        with contextlib.suppress(TypeError):  # a class of the app's that is too different
            logger.__class__ = SteadyLogger if kind is logging.Logger else type(kind.__name__, (SteadyLogger, kind), {})
            _ = logger.__dict__.pop("disabled", None)


class _Gate(logging.Filter):
    """Stands before the handlers of a logger."""

    def __init__(self, logger: logging.Logger, writer: "_Writer") -> None:
        super().__init__()
        self.logger = logger
        self._writer = writer

    def filter(self, record: logging.LogRecord) -> bool:
        return not self._writer.take(self.logger, record)


class _Writer:
    """The thread that writes."""

    def __init__(self) -> None:
        self._records: SimpleQueue[tuple[logging.Logger, logging.LogRecord] | None] = SimpleQueue()
        self._pid = os.getpid()
        self._lost = 0
        self._thread = threading.Thread(target=self._work, name="werk-log", daemon=True)
        self._thread.start()

    def take(self, logger: logging.Logger, record: logging.LogRecord) -> bool:
        """Take a record over; False when it has to be written here: in a process forked from ours, or by ourselves."""
        if os.getpid() != self._pid or threading.get_ident() == self._thread.ident:
            return False
        if self._records.qsize() < MOST:
            self._records.put((logger, record))
        else:
            self._lost += 1
        return True

    def _work(self) -> None:
        while (item := self._records.get()) is not None:
            logger, record = item
            with contextlib.suppress(Exception):
                logger.callHandlers(record)
            if self._lost and self._records.empty():
                lost, self._lost = self._lost, 0
                logger.warning("dropped %d log lines of this worker: its log handlers were too slow", lost)

    def close(self) -> None:
        """Write what is there, and end."""
        self._records.put(None)
        self._thread.join(LAST_SECONDS)


@contextlib.contextmanager
def handed_over() -> Iterator[None]:
    """Have what the loggers of a worker say written by a thread of its own until the end of the block."""
    steady()
    writer = _Writer()
    gates = [_Gate(logging.getLogger(name), writer) for name in HANDED_OVER]
    for gate in gates:
        gate.logger.addFilter(gate)
    try:
        yield
    finally:
        for gate in gates:
            gate.logger.removeFilter(gate)
        writer.close()
