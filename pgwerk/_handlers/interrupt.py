"""A run of a handler in a thread, and how to interrupt it.

A thread is interrupted in two steps. The query that it waits for, if it waits inside psycopg, is cancelled on the
server, which leaves the connection usable; then the exception is raised at its next Python instruction, unless it is
where that would do harm (`moments`): then a little later. Nothing interrupts a thread inside C code that is not
psycopg's, such as time.sleep: whoever asked has to live with that.

The ident of a thread passes to another one when it ends, and a thread goes on to the next run. So nothing is done to a
thread on account of a run but under the run's lock, and while it is open.
"""

import contextlib
import ctypes
import logging
import sys
import threading
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from pgwerk._handlers.moments import forget, may_raise, raise_at_a_record
from pgwerk._handlers.run import Interruption, Run, monotonic

if TYPE_CHECKING:
    import psycopg

logger = logging.getLogger("pgwerk.worker")

CANCEL_SECONDS = 2.0
STEP = 0.005
"""Seconds between checks whether the interrupted run is over."""
BLINK = 0.001
"""Seconds between checks whether the run is where an exception does no harm."""
PATIENCE = 1.0
"""How long it waits for a block that takes or gives back what it needs; see `may_raise`."""
AFTER_CANCEL = 0.05
"""How long a handler has, after its query was cancelled, before the exception is raised in it anyway."""


@dataclass(eq=False, slots=True)
class ThreadRun(Run):
    """One run of a handler in a thread."""

    thread: int = field(default_factory=threading.get_ident)
    lock: "threading.Lock | None" = None
    """Held by whoever does something to the thread; made when the run is interrupted, which few are."""
    raised: bool = False

    def interrupt(self, reason: Interruption) -> None:
        """Interrupt the handler, in the background; the first reason counts. Called by one thread."""
        if self.reason is not None or not self.open:
            return
        self.lock = lock = threading.Lock()
        if self.mark(reason):
            try:
                threading.Thread(
                    target=self._interrupt, args=(reason, lock), name="pgwerk-interrupt", daemon=True
                ).start()
            except RuntimeError:
                # No more threads can be started. It is left behind if one look is not enough.
                _ = self._raise(reason, lock, hurried=True)

    def _interrupt(self, reason: Interruption, lock: threading.Lock) -> None:
        while self.shields and self.open:
            time.sleep(STEP)
        with lock:
            frame = sys._current_frames().get(self.thread) if self.open else None  # noqa: SLF001  # the only way to see it
            cancelled = cancel_queries(frame) or stop_waiting(frame, reason)
        if cancelled:
            until = monotonic() + AFTER_CANCEL
            while self.open and monotonic() < until:
                time.sleep(STEP)
        until = monotonic() + PATIENCE
        with lock:
            if self.open:
                raise_at_a_record(self.thread, self._at_a_record)
        while True:
            # Afterwards the interpreter is ours for its switch interval, 5 ms: no thread moves between the look at its
            # stack and the exception. `_raise` takes less than a hundredth of it.
            time.sleep(BLINK)
            if self._raise(reason, lock, hurried=monotonic() > until):
                return

    def _raise(self, reason: Interruption, lock: threading.Lock, *, hurried: bool) -> bool:
        """Raise the reason in the thread, unless this is not the moment; whether all is done."""
        with lock:
            if self.raised or not self.open:
                return True
            if self.shields:
                return False
            if not may_raise(sys._current_frames().get(self.thread), hurried=hurried):  # noqa: SLF001  # see above
                return False
            self.raised = True
            raise_in_thread(self.thread, reason)
            return True

    def _at_a_record(self, frame: FrameType) -> None:
        """Raise the reason; called by the thread itself."""
        assert self.lock is not None
        if not self.lock.acquire(blocking=False):
            return
        try:
            if self.raised or not self.open or self.shields or self.reason is None or not may_raise(frame):
                return
            self.raised = True
        finally:
            self.lock.release()
        raise self.reason

    def close(self) -> None:
        """Let nothing more be raised in the thread on account of this run; called by the thread itself."""
        self.open = False
        if self.lock is not None:
            # Whoever interrupts looks at `open` under this lock: after it, nothing is raised any more.
            with self.lock:
                pass
            forget(self.thread)
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


def stop_waiting(frame: FrameType | None, reason: Interruption) -> bool:
    """Let a wait for a connection of a psycopg pool fail with *reason*; whether there was one.

    An exception that is raised in it would lose the connection that it gets.
    """
    while frame is not None:
        if frame.f_code.co_name == "wait" and frame.f_globals.get("__name__") == "psycopg_pool.pool":
            client: Any = frame.f_locals.get("self")
            with contextlib.suppress(Exception):
                return bool(client.fail(reason(reason.__name__)))
        frame = frame.f_back
    return False


def _waiting_connections(frame: FrameType | None) -> list["psycopg.Connection[Any]"]:
    """The psycopg connections whose `wait` is on a thread's stack, innermost first."""
    found: list[psycopg.Connection[Any]] = []
    # Who has not imported it waits for none of its connections.
    driver: Any = sys.modules.get("psycopg")
    if driver is None:
        return found
    while frame is not None:
        if frame.f_code.co_name == "wait" and frame.f_globals.get("__name__", "").startswith("psycopg."):
            owner: Any = frame.f_locals.get("self")
            if owner is not None and isinstance(owner, driver.Connection):
                found.append(owner)
        frame = frame.f_back
    return found


def stack_of(thread: int) -> str:
    """Where a thread is now, as text."""
    import traceback  # noqa: PLC0415  # rarely

    frame = sys._current_frames().get(thread)  # noqa: SLF001  # see above
    return "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)\n"
