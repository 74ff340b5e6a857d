"""What a claim brings: jobs to run, in the order they should, and what it says about their queues."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pgwerk._core.cursor import Place
from pgwerk._core.job import Job


@dataclass(slots=True)
class Claimed:
    """One claimed job: what a worker needs to run and settle it.

    *plain*: it has no callbacks, group, repeat … so that its end can be written by `close` in a batch.
    *bare*: it has no options but priority, attempts and timeout, so that nothing follows when it succeeds.
    """

    id: str
    function: str
    claim: int
    payload: str | None
    """Its arguments, encoded."""
    timeout_secs: float | None
    plain: bool
    bare: bool
    _make: Callable[[Any], Job] = field(repr=False)
    _source: Any = field(repr=False)
    _job: Job | None = field(default=None, repr=False)

    @property
    def job(self) -> Job:
        """The job; made when somebody asks for it, which for most jobs is nobody."""
        if self._job is None:
            self._job = self._make(self._source)
        return self._job

    @property
    def callback_of(self) -> str | None:
        """The job whose end it is called about, if it is a callback."""
        return None if self.plain else self.job.callback_of

    @property
    def watched(self) -> bool:
        """Whether its beginning has to be written down, so that the death of its worker leaves no doubt.

        A job with a heartbeat is taken from whoever does not renew it, dead or not: in doubt it would be charged.
        """
        if self.bare:
            return False
        job = self.job
        return job.watched is not None or job.lost > 0 or job.max_lost == 0 or job.heartbeat_secs is not None

    @property
    def heartbeat_secs(self) -> float | None:
        """How often the job must be renewed, if it must."""
        return None if self.bare else self.job.heartbeat_secs


class Claim:
    """What one claim brought; its jobs are made only when they are asked for."""

    def __init__(
        self,
        count: int,
        read: Callable[[], list[Claimed]],
        *,
        last: Mapping[str, Place],
        last_queue: str | None,
        largest: int,
        denied: Sequence[str] = (),
        passed_over: int = 0,
        each: int | None = None,
    ) -> None:
        self._count = count
        self._read = read
        self.last = last
        """The place of the last job of each queue."""
        self.last_queue = last_queue
        """The queue of the job that runs last."""
        self.largest = largest
        """How many are of the queue that gave most."""
        self.denied = denied
        """The keys of groups that had members but no free permit."""
        self.passed_over = passed_over
        """How many members of groups were denied."""
        # Members that were denied are of unknown queues.
        self.curbed = each is not None and (bool(passed_over) or largest >= each)
        """Whether there may be more in a queue of which only *each* were looked at."""

    def __len__(self) -> int:
        return self._count

    @cached_property
    def jobs(self) -> list[Claimed]:
        """The jobs, in the order they should run."""
        return self._read()
