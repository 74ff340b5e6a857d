"""Where the claims of one worker look: which queues, in which order, from where on, and how far into each."""

import math
import random
from collections.abc import Sequence

from pgwerk._core.claim import Claim
from pgwerk._core.cursor import Cursor, Range
from pgwerk._core.job import DequeueStrategy

FEW = 64
"""Of fewer jobs than these it does not matter how many more are looked at."""


class Reach:
    """Decides where the next claim looks, from what the last one brought."""

    def __init__(self, queues: Sequence[str], strategy: DequeueStrategy) -> None:
        self._queues = queues
        self._strategy = strategy
        self._cursor = Cursor()
        self.in_turns = strategy is not DequeueStrategy.Priority
        """Whether one job of each queue is taken after the other, not by priority over all of them."""
        self._first = 0
        """The queue whose turn it is."""
        self._sources = len(queues)
        """How many queues had jobs for us the last time."""
        self._share = 1.0
        """Which part of the last claim was of the queue that gave most."""

    def ranges(self, now: float) -> Sequence[Range]:
        """The parts of the queues to look at, in the order to take from them."""
        return self._cursor.ranges(self._ordered(), now)

    def _ordered(self) -> Sequence[str]:
        if self._strategy is DequeueStrategy.Random:
            return random.sample(self._queues, len(self._queues))
        return (*self._queues[self._first :], *self._queues[: self._first])

    def each(self, count: int) -> int | None:
        """How many of each queue to look at, and lock, for a claim of *count*; None: as many as that."""
        if self.in_turns:
            return -(-count // self._sources)
        # By priority all may be of one queue. Half as many again as the last time are enough until that changes.
        most = math.ceil(1.5 * self._share * count)
        return most if count >= FEW and most < count else None

    def claimed(self, asked: int, claim: Claim, now: float) -> int:
        """Take note of what a claim of *asked* jobs brought; how many it could have brought from where it looked."""
        got = len(claim)
        full = claim.curbed or got + claim.passed_over >= asked
        # Behind a cursor, less than asked says nothing about what is in front of it.
        possible = got if claim.curbed or not self._cursor.whole else asked
        self._sources = len(claim.last) or len(self._queues)
        self._share = claim.largest / got if got >= FEW else 1.0
        self._cursor.claimed(claim.last, now, full=full)
        if claim.last_queue is not None and self._strategy is DequeueStrategy.RoundRobin:
            # Or a worker that takes one job at a time would take all of them from its first queue.
            self._first = (self._queues.index(claim.last_queue) + 1) % len(self._queues)
        return possible

    def reset(self) -> None:
        """Look from the front of each queue the next time."""
        self._cursor.reset()
