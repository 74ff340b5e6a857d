"""Whether a worker's coordinator still gets on: pure.

Another thread says that the worker lives. It must not go on to do so for a coordinator that hangs or has died.
"""

import math
from typing import NamedTuple

PATIENCE = 3.0
"""Heartbeats that a coordinator may spend between two of its steps without waiting for anything."""
LEAST = 10.0
"""Seconds that it may in any case: on a busy machine, its thread may have to wait."""


class Motion(NamedTuple):
    """What can be seen of a coordinator from another thread."""

    steps: int
    """A number that changes with everything it does."""
    resting: bool
    """Whether it waits for something to happen, which is fine for any time."""
    asking: bool
    """Whether it waits for Postgres."""


class Stall:
    """Measure for how long a coordinator has not moved; only time in which the observer ran itself counts."""

    def __init__(self, heartbeat: float, tick: float, asking: float) -> None:
        self._tick = tick
        self._patience = max(PATIENCE * heartbeat, LEAST)
        self._asking = asking
        """Seconds after which no statement can still be answered."""
        self._last = Motion(-1, resting=True, asking=False)
        self._looked = math.inf
        self.still = 0.0
        """For how long (seconds) it has not moved."""

    def look(self, motion: Motion, now: float) -> bool:
        """Look again; whether it is stuck."""
        # In a longer gap we did not run ourselves, and neither did it, perhaps.
        watched = min(max(0.0, now - self._looked), 2 * self._tick)
        self._looked = now
        if motion.resting or motion != self._last:
            self.still = 0.0
        else:
            self.still += watched
        self._last = motion
        return self.still > (self._asking if motion.asking else self._patience)
