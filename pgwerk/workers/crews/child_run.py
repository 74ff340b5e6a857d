"""One run of a handler in a child process, interrupted by a signal that says no more than "look"."""

import math
import signal
import threading
from dataclasses import dataclass, field

from pgwerk._handlers.run import Interruption, Run, monotonic
from pgwerk.workers.forking.channel import Board
from pgwerk.workers.forking.zygote import HostedChild

REMIND = 0.25
"""Seconds between the signals to a child whose handler was interrupted and still runs. More than the 0.1 after which
psycopg looks for signals while it waits: each signal begins that anew."""


@dataclass(eq=False, slots=True)
class ChildRun(Run):
    """A run in a child."""

    child: HostedChild = field(kw_only=True)
    slot: int = field(kw_only=True)
    board: Board = field(kw_only=True)
    remind_at: float = math.inf
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Between whoever interrupts and the slot's thread: after `close`, no signal is sent on account of this run."""

    def interrupt(self, reason: Interruption) -> None:
        """Interrupt the handler; the first reason counts."""
        with self.lock:
            if self.mark(reason):
                self.board.interrupt(self.slot, reason)
                self._signal()

    def remind(self, now: float) -> None:
        """Signal again: the child may not have begun, or a shield or a query may have put it off."""
        with self.lock:
            if self.open and now >= self.remind_at:
                self._signal()

    def close(self) -> None:
        """Send no more signals."""
        with self.lock:
            self.open = False

    def _signal(self) -> None:
        self.remind_at = monotonic() + REMIND
        self.child.signal(signal.SIGTERM)
