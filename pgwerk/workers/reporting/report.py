"""How a worker fares, told to the world outside of Postgres: a file for probes, a socket for systemd."""

import os
from dataclasses import dataclass

from pgwerk.workers.reporting.endings import count
from pgwerk.workers.reporting.health_file import HealthFile
from pgwerk.workers.reporting.systemd import notifier

SLOWEST = 1.0
"""Seconds between two looks; who waits for READY=1 waits no longer."""
FILE_SECONDS = 5.0
"""Seconds between two renewals of the health file, at most."""


@dataclass(frozen=True)
class Condition:
    """How a worker fares."""

    ready: bool
    """Whether it has begun to work."""
    well: bool
    """Whether it is known in Postgres as living."""
    stopping: bool
    status: str
    """A line with numbers, for people."""


class Reporter:
    """Tell whoever wants to know, each as often as necessary."""

    def __init__(self, health_file: "str | os.PathLike[str] | None", heartbeat: float) -> None:
        self._file = None if health_file is None else HealthFile(health_file)
        self._notifier = notifier()
        watchdog = self._notifier.watchdog if self._notifier is not None else None
        self._ping = watchdog / 2 if watchdog is not None else None
        self._renew = min(FILE_SECONDS, heartbeat / 2)
        self.between = min(SLOWEST, heartbeat / 4, self._ping / 4 if self._ping is not None else SLOWEST)
        """Seconds between two reports."""
        self._ping_at = self._renew_at = 0.0
        self._ready = self._stopping = False
        self._status = ""

    @property
    def wanted(self) -> bool:
        """Whether anybody wants to know."""
        return self._file is not None or self._notifier is not None

    def start(self) -> None:
        """Begin; raises ConfigError when the health file cannot be written."""
        if self._file is not None:
            self._file.start()

    def report(self, condition: Condition, now: float) -> None:
        """Tell how the worker fares."""
        if self._file is not None and condition.ready and condition.well:
            self._renew_file(self._file, condition, now)
        if self._notifier is not None:
            news = self._news(condition, now)
            if news:
                self._notifier.send(**news)
        self._ready = self._ready or condition.ready
        self._stopping = condition.stopping

    def _renew_file(self, file: HealthFile, condition: Condition, now: float) -> None:
        if not self._ready or condition.stopping is not self._stopping or now >= self._renew_at:
            self._renew_at = now + self._renew - self.between / 2
            file.renew("stopping" if condition.stopping else "working")

    def _news(self, condition: Condition, now: float) -> dict[str, str]:
        news: dict[str, str] = {}
        if condition.ready and not self._ready:
            news["READY"] = "1"
        if condition.stopping and not self._stopping:
            news["STOPPING"] = "1"
        if self._ping is not None and condition.well and now >= self._ping_at:
            # The next look may be late by what lies between two of them.
            self._ping_at = now + self._ping - self.between
            news["WATCHDOG"] = "1"
        if condition.status != self._status:
            self._status = news["STATUS"] = condition.status
        return news

    def end(self, status: str) -> None:
        """Say the last word: the worker has ended as it should."""
        if self._notifier is not None:
            self._notifier.send(**({} if self._stopping else {"STOPPING": "1"}), STATUS=status)
        if self._file is not None:
            self._file.remove()


def in_words(ended: int, failed: int, held: int) -> str:
    """Write what a worker has done as one line."""
    return f"finished {count(ended, 'job')} ({failed} failed), {held} in progress"
