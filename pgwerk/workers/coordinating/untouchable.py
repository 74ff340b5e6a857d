"""Jobs that Postgres refuses to change at all: a trigger, a rule. A claim that meets one fails, whatever else it takes.

Neither can they be failed. So this worker's claims pass over each for a while, which grows with every time that it is
met again; the jobs behind it go on.
"""

import logging
from dataclasses import dataclass

from pgwerk._core import backoff

logger = logging.getLogger("pgwerk.worker")

MOST = 1000
"""So many are remembered; beyond them, those that would be tried again first are forgotten."""
FIRST = 1.0
LONGEST = 60.0
"""Seconds until a claim may meet one again."""


@dataclass(slots=True)
class _Entry:
    until: float
    times: int


class UntouchableJobs:
    """Remembers which jobs a claim has to pass over, and until when."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, job_id: str, reason: str, now: float) -> None:
        """Pass over this job for a while; the first time, say so."""
        entry = self._entries.get(job_id)
        times = 1 if entry is None else entry.times + 1
        if times == 1:
            logger.error("job %s can be neither claimed nor failed; skipping it until it can: %s", job_id, reason)
        self._entries[job_id] = _Entry(now + backoff.exponential(times, base=FIRST, cap=LONGEST), times)
        if len(self._entries) > MOST:
            del self._entries[min(self._entries, key=lambda one: self._entries[one].until)]

    def ids(self, now: float) -> list[str]:
        """The jobs that a claim which is sent now should pass over.

        What is not met again long after its time, such as a job that could be claimed at last, is forgotten.
        """
        for job_id in [one for one, entry in self._entries.items() if now > entry.until + 2 * LONGEST]:
            del self._entries[job_id]
        return sorted(job_id for job_id, entry in self._entries.items() if now < entry.until)
