"""A run of a handler in a thread, and how to interrupt it.

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
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import psycopg

from pgwerk._runs import Interruption, Run, monotonic

logger = logging.getLogger("pgwerk.worker")

CANCEL_SECONDS = 2.0
STEP = 0.005
"""How often the thread that interrupts looks whether the run is over; a run itself carries no lock for it."""
AFTER_CANCEL = 0.05
"""How long a handler has, after its query was cancelled, before the exception is raised in it anyway."""


_raising = threading.Lock()


@dataclass(eq=False, slots=True)
class ThreadRun(Run):
    """One run of a handler in a thread."""

    thread: int = field(default_factory=threading.get_ident)

    def interrupt(self, reason: Interruption) -> None:
        """Interrupt the handler, in the background; the first reason counts."""
        if self.mark(reason):
            threading.Thread(target=self._interrupt, args=(reason,), name="pgwerk-interrupt", daemon=True).start()

    def _interrupt(self, reason: Interruption) -> None:
        while self.shields and self.open:
            time.sleep(STEP)
        if cancel_queries(sys._current_frames().get(self.thread)):  # noqa: SLF001  # the only way to see it
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


def cancel_queries(frame: FrameType | None) -> bool:
    """Cancel the queries that a thread (its innermost *frame*) waits for inside psycopg; whether there were any."""
    found = False
    for connection in _waiting_connections(frame):
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


def stack_of(thread: int) -> str:
    """Where a thread is now, as text."""
    import traceback  # noqa: PLC0415  # rarely

    frame = sys._current_frames().get(thread)  # noqa: SLF001  # see above
    return "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)\n"
