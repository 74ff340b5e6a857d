"""Jobs and their executions, as people see them."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pgwerk._core.statuses import TERMINAL


def reason_of(error: str | None) -> str | None:
    """Find what was raised in the text of an error: one line, without the way there."""
    lines = [line for line in (error or "").splitlines() if line.strip()]
    if not lines:
        return None
    if not lines[0].startswith("Traceback (most recent"):
        return lines[0].strip()
    # Under the last frame and its source: a message may have several lines, and the first names the error.
    last = max((number for number, line in enumerate(lines) if line.startswith("  File ")), default=0)
    return next((line for line in lines[last + 1 :] if not line[0].isspace()), lines[-1]).strip()


def whole_payload(stored: Any) -> Any:
    """Give a payload the parts that are not stored because they are empty.

    What another producer stored may be no such thing, or not even readable; it stays as it is.
    """
    if stored is None:
        return {"args": [], "kwargs": {}}
    return {"args": [], "kwargs": {}, **stored} if isinstance(stored, dict) else stored


class JobStatus(StrEnum):
    """Where a job is in its life."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    WAITING = "waiting"
    ACTIVE = "active"
    ABORTING = "aborting"
    COMPLETE = "complete"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.value in TERMINAL


class ExecutionStatus(StrEnum):
    """How one attempt went."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"
    ABORTED = "aborted"


class FailureMode(StrEnum):
    """What happens to the row of a job that failed for good."""

    HOLD = "hold"
    DELETE = "delete"


class DequeueStrategy(StrEnum):
    """In which order a worker looks at its queues."""

    Priority = "priority"
    RoundRobin = "round_robin"
    Random = "random"


@dataclass(eq=False)
class Job:
    """One job. Its attributes are the columns of its row; times are aware datetimes, ids strings."""

    id: str = ""
    key: str | None = None
    function: str = ""
    queue: str = "default"
    status: JobStatus = JobStatus.QUEUED
    priority: int = 0
    attempts: int = 0
    max_attempts: int = 1
    payload: Any = None
    """The arguments of the call, ``{"args": […], "kwargs": {…}}``; both are there when a job was read."""
    result: Any = field(default=None, repr=False)
    error: str | None = field(default=None, repr=False)
    lost: int = 0
    """How many times its worker died while it ran, since it was last queued by hand."""
    max_lost: int | None = field(default=None, repr=False)
    """How many times that may happen; None means what the app's configuration says."""
    watched: int | None = field(default=None, repr=False)
    """The claim under which its handler is known to have begun, 0 before that; None when nobody writes it down."""
    interrupted: int = field(default=0, repr=False)
    """How many times it was given back, unfinished, by a worker that had to stop."""
    meta: dict[str, Any] | None = None
    progress: dict[str, Any] | None = field(default=None, repr=False)
    worker_id: str | None = None
    claim_id: int | None = field(default=None, repr=False)
    scheduled_at: datetime | None = None
    enqueued_at: datetime | None = field(default=None, repr=False)
    started_at: datetime | None = field(default=None, repr=False)
    completed_at: datetime | None = field(default=None, repr=False)
    touched_at: datetime | None = field(default=None, repr=False)
    expires_at: datetime | None = field(default=None, repr=False)
    timeout_secs: float | None = field(default=None, repr=False)
    heartbeat_secs: float | None = field(default=None, repr=False)
    group_key: str | None = field(default=None, repr=False)
    group_limit: int | None = field(default=None, repr=False)
    ttl: float | None = field(default=None, repr=False)
    result_ttl: float | None = field(default=None, repr=False)
    failure_ttl: float | None = field(default=None, repr=False)
    failure_mode: FailureMode = field(default=FailureMode.HOLD, repr=False)
    retry_intervals: list[float] | None = field(default=None, repr=False)
    no_retry: list[str] | None = field(default=None, repr=False)
    on_success: str | None = field(default=None, repr=False)
    on_success_timeout: float | None = field(default=None, repr=False)
    on_failure: str | None = field(default=None, repr=False)
    on_failure_timeout: float | None = field(default=None, repr=False)
    on_stopped: str | None = field(default=None, repr=False)
    on_stopped_timeout: float | None = field(default=None, repr=False)
    callback_of: str | None = field(default=None, repr=False)
    callback_kind: str | None = field(default=None, repr=False)
    repeat_remaining: int | None = field(default=None, repr=False)
    repeat_interval_secs: float | None = field(default=None, repr=False)
    repeat_intervals: list[float] | None = field(default=None, repr=False)
    schedule_name: str | None = field(default=None, repr=False)

    @property
    def args(self) -> tuple[Any, ...]:
        """The positional arguments of the call."""
        found = self._payload("args")
        return tuple(found) if isinstance(found, list | tuple) else ()

    @property
    def kwargs(self) -> dict[str, Any]:
        """The keyword arguments of the call."""
        found = self._payload("kwargs")
        return dict(found) if isinstance(found, dict) else {}

    def _payload(self, part: str) -> Any:
        # A row that another producer made may hold anything.
        return self.payload.get(part) if isinstance(self.payload, dict) else None

    @property
    def reason(self) -> str | None:
        """What its last failed attempt raised, or why it ended, on one line; None without an error."""
        return reason_of(self.error)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and self.id == other.id and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(self.id)

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Job":
        """Make a job from the values that differ from the defaults; several times cheaper than calling the class."""
        job = object.__new__(cls)
        job.__dict__ = values
        return job


@dataclass(frozen=True)
class JobExecution:
    """One attempt at a job, as its row says; `error` stays even when a later attempt succeeded."""

    id: str
    job_id: str
    attempt: int
    status: ExecutionStatus
    worker_id: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    error: str | None = field(default=None, repr=False)
    result: Any = field(default=None, repr=False)

    @property
    def reason(self) -> str | None:
        """What it raised, on one line; None without an error."""
        return reason_of(self.error)

    @property
    def duration(self) -> float | None:
        """Seconds from start to end; None while it runs."""
        if self.started_at is None or self.completed_at is None:
            return None
        return (self.completed_at - self.started_at).total_seconds()
