"""One run of a handler, seen from outside: what it is, since when, and how to interrupt it.

A thread is interrupted in two steps. The query that it waits for, if it waits inside psycopg, is cancelled on the
server, which leaves the connection usable; then the exception is raised at its next Python instruction. Nothing
interrupts a thread inside C code that is not psycopg's, such as time.sleep: whoever asked has to live with that.
"""

import contextlib
import ctypes
import logging
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import psycopg

from pgwerk._core.statements.claims import Claimed
from pgwerk.errors import JobAborted, JobTimeout, WorkerShutdown

logger = logging.getLogger("pgwerk.worker")

Interruption = type[JobTimeout] | type[JobAborted] | type[WorkerShutdown]
INTERRUPTIONS = (JobTimeout, JobAborted, WorkerShutdown)

CANCEL_SECONDS = 2.0
STEP = 0.005
"""How often the thread that interrupts looks whether the run is over; a run itself carries no lock for it."""
AFTER_CANCEL = 0.05
"""How long a handler has, after its query was cancelled, before the exception is raised in it anyway."""


_raising = threading.Lock()


@dataclass(eq=False, slots=True)
class Run:
    """One run of a handler in a thread."""

    claimed: Claimed
    thread: int
    started: float
    deadline: float | None
    reason: Interruption | None = None
    """Why it was interrupted; whatever the handler raises then, this is what happened."""
    interrupted: float = 0.0
    """When it was."""
    open: bool = False
    """Whether an exception raised in the thread would reach the handler, or who catches it for the handler."""
    shields: int = 0

    def interrupt(self, reason: Interruption) -> None:
        """Interrupt the handler, in the background; the first reason counts."""
        if self.reason is not None or not self.open:
            return
        self.interrupted = monotonic()
        self.reason = reason
        threading.Thread(target=self._interrupt, args=(reason,), name="pgwerk-interrupt", daemon=True).start()

    def _interrupt(self, reason: Interruption) -> None:
        while self.shields and self.open:
            time.sleep(STEP)
        if _cancel_queries(self.thread):
            until = monotonic() + AFTER_CANCEL
            while self.open and monotonic() < until:
                time.sleep(STEP)
        with _raising:
            if self.open:
                raise_in_thread(self.thread, reason)

    def close(self) -> None:
        """Let nothing more be raised in the thread on account of this run; called by the thread itself."""
        self.open = False
        if self.reason is not None:
            # Whoever interrupts looks at `open` under this lock: after it, nothing is raised any more.
            with _raising:
                pass
            _absorb()


class _Absorbed(BaseException):
    """Raised by a thread in itself, in place of what others may have raised in it."""


def _absorb() -> None:
    """Take back an exception that was raised in this thread and has not arrived.

    By replacing it and letting the replacement arrive. Replacing it by nothing would leave the interpreter of
    Python 3.11 looking for it for ever, which under a profiler or tracer never ends.
    """
    try:
        raise_in_thread(threading.get_ident(), _Absorbed)
        for _ in range(10_000_000):
            pass
    except _Absorbed:
        pass


def raise_in_thread(thread: int, exception: type[BaseException]) -> None:
    """Raise *exception* in a thread at its next Python instruction."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exception))


def _cancel_queries(thread: int) -> bool:
    """Cancel the queries that a thread waits for inside psycopg; whether there were any."""
    found = False
    for connection in _waiting_connections(sys._current_frames().get(thread)):  # noqa: SLF001  # the only way to see it
        with contextlib.suppress(Exception):
            connection.cancel_safe(timeout=CANCEL_SECONDS)
            found = True
    return found


def _waiting_connections(frame: FrameType | None) -> list[psycopg.Connection[Any]]:
    """The psycopg connections whose `wait` is on a thread's stack, innermost first."""
    found: list[psycopg.Connection[Any]] = []
    while frame is not None:
        if frame.f_code.co_name == "wait" and frame.f_globals.get("__name__", "").startswith("psycopg."):
            owner = frame.f_locals.get("self")
            if isinstance(owner, psycopg.Connection):
                found.append(owner)
        frame = frame.f_back
    return found


_local = threading.local()


def current_run() -> Run | None:
    """The run of this thread, if it runs a handler."""
    return getattr(_local, "run", None)


def set_current_run(run: Run | None) -> None:
    """Say what this thread runs."""
    _local.run = run


@contextlib.contextmanager
def shield() -> Iterator[None]:
    """Put off timeouts, aborts and shutdown until the end of the block: for a commit that must not be torn.

    Does nothing outside of a handler that runs in a thread.
    """
    run = current_run()
    if run is None:
        yield
        return
    run.shields += 1
    try:
        yield
    finally:
        run.shields -= 1


def stack_of(thread: int) -> str:
    """Where a thread is now, as text."""
    import traceback  # noqa: PLC0415  # rarely

    frame = sys._current_frames().get(thread)  # noqa: SLF001  # see above
    return "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)\n"


def monotonic() -> float:
    """The clock of runs."""
    return time.monotonic()
