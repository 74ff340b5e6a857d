"""How fast jobs end, as observed, and how much work to claim ahead of free slots because of it.

It is counted in windows of 20 ms or more in which something ended. Time without jobs is taken out of the window; jobs
that were given back unstarted are not counted.
"""

BUFFER_SECONDS = 0.05
"""How much work, at the observed rate, is claimed ahead of free slots."""
STEEP = 8
"""The observed rate grows at most so many times at once."""
MAX_BUFFER = 1000
WINDOW = 0.02


class Rate:
    """Observes the ends of jobs. Times are seconds on any clock that only goes forward."""

    def __init__(self, concurrency: int, now: float) -> None:
        self._concurrency = concurrency
        self._rate = 0.0
        self._window_start = now
        self._window_count = 0
        self.last_finish = now
        """When the last job ended."""
        self._returning = 0
        """How many of the next ends are of jobs that are given back unstarted."""

    @property
    def buffer(self) -> int:
        """How many jobs to hold beyond the slots: about 50 ms of work at the observed rate, none of slow work."""
        return min(int(self._rate * BUFFER_SECONDS), MAX_BUFFER)

    def claimed(self, now: float, *, idle: bool) -> None:
        """Jobs were claimed; *idle*: there were none before."""
        if idle:
            # Time without jobs says nothing about how fast they are.
            self._window_start += now - self.last_finish
            self.last_finish = now
        self._returning = 0

    def finished(self, count: int, now: float) -> None:
        """Jobs ended, or went back."""
        self.last_finish = now
        # What is given back unstarted says nothing about the rate.
        returned = min(count, self._returning)
        self._returning -= returned
        self._window_count += count - returned
        elapsed = now - self._window_start
        if elapsed >= WINDOW or self._window_count >= 2 * self._concurrency:
            # Up at once, though not on the word of a few, and down by halves: one slow batch is not yet slow work.
            most = STEEP * max(self._rate, self._concurrency / BUFFER_SECONDS)
            rate = min(self._window_count / max(elapsed, 0.001), most)
            self._rate = max(rate, 0.5 * self._rate + 0.5 * rate)
            self._window_start, self._window_count = now, 0

    def forget(self, now: float, *, returning: int) -> None:
        """What was observed before says nothing any more; so many jobs go back unstarted."""
        self._rate, self.last_finish = 0.0, now
        self._window_start, self._window_count = now, 0
        self._returning = returning
