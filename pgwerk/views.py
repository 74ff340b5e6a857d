"""Jobs, executions, queues, workers and the installation as plain facts, for whoever shows them or prints JSON.

Every view is a dict that `json.dumps` takes: times are ISO 8601 with their zone, durations are seconds, statuses text.
Arguments, results and `meta` are as they were decoded; what JSON has no type for is text, and a stored value that
cannot be decoded is ``{"$undecodable": reason, "text": …}``. No view holds a password.
"""

import math
from dataclasses import fields
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from pgwerk._core.payload import Undecodable

if TYPE_CHECKING:
    from pgwerk import Job, JobExecution, QueueStats, Werk, WorkerInfo

UNDECODABLE = "$undecodable"
JOB_STATUSES = ("scheduled", "queued", "waiting", "active", "aborting", "complete", "failed", "aborted")
INTERNAL = ("claim_id", "watched")
"""Fields of a job that say something to workers only."""


class JobView(TypedDict):
    """A job: the fields of `Job`, its arguments, and what can be said of it in short."""

    id: str
    key: str | None
    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    payload: Any
    queue: str
    status: str
    priority: int
    attempts: int
    max_attempts: int
    result: Any
    error: str | None
    reason: str | None
    """What the last failed attempt raised, on one line."""
    lost: int
    max_lost: int | None
    interrupted: int
    meta: Any
    progress: Any
    worker_id: str | None
    scheduled_at: str | None
    enqueued_at: str | None
    started_at: str | None
    completed_at: str | None
    duration: float | None
    """Seconds that the last attempt took; None while there is none, or it has not ended."""
    touched_at: str | None
    expires_at: str | None
    timeout_secs: float | None
    heartbeat_secs: float | None
    group_key: str | None
    group_limit: int | None
    ttl: float | None
    result_ttl: float | None
    failure_ttl: float | None
    failure_mode: str
    retry_intervals: list[float] | None
    no_retry: list[str] | None
    on_success: str | None
    on_success_timeout: float | None
    on_failure: str | None
    on_failure_timeout: float | None
    on_stopped: str | None
    on_stopped_timeout: float | None
    callback_of: str | None
    callback_kind: str | None
    repeat_remaining: int | None
    repeat_interval_secs: float | None
    repeat_intervals: list[float] | None
    schedule_name: str | None


class ExecutionView(TypedDict):
    """One attempt at a job."""

    id: str
    job_id: str
    attempt: int
    status: str
    worker_id: str | None
    started_at: str | None
    completed_at: str | None
    duration: float | None
    error: str | None
    reason: str | None
    result: Any


class JobPage(JobView):
    """All about one job."""

    executions: list[ExecutionView]
    dependencies: list[str]


class QueueView(TypedDict):
    """A queue."""

    queue: str
    counts: dict[str, int]
    """Jobs by status, without the statuses that none is in."""
    total: int
    oldest: float | None
    """Seconds that the oldest runnable job has waited."""
    paused: bool
    pause_reason: str | None


class WorkerView(TypedDict):
    """A worker."""

    id: str
    name: str
    queue: str
    status: str
    metadata: dict[str, Any]
    active: int
    """Jobs it holds."""
    heartbeat_at: str
    started_at: str
    expires_at: str | None


class PostgresView(TypedDict):
    """The database."""

    version: str
    at: str
    """Where it is, without a password."""


class SchemaView(TypedDict):
    """The tables."""

    name: str
    prefix: str
    version: int
    pending: list[str]
    """Migrations that have not been applied."""


class InstallationView(TypedDict):
    """The installation at a glance."""

    pgwerk: str
    postgres: PostgresView
    schema: SchemaView
    queues: list[QueueView]
    workers: list[WorkerView]
    at: str
    """When this was read."""


def job(of: "Job") -> JobView:
    """The facts of a job."""
    found: Any = {field.name: value(getattr(of, field.name)) for field in fields(of) if field.name not in INTERNAL}
    duration = None
    if of.started_at is not None and of.completed_at is not None:
        duration = (of.completed_at - of.started_at).total_seconds()
    found.update(args=value(of.args), kwargs=value(of.kwargs), reason=of.reason, duration=duration)
    view: JobView = found
    return view


def execution(of: "JobExecution") -> ExecutionView:
    """The facts of an attempt."""
    found: Any = {field.name: value(getattr(of, field.name)) for field in fields(of)}
    found.update(reason=of.reason, duration=of.duration)
    view: ExecutionView = found
    return view


def job_page(of: "Job", executions: "list[JobExecution]", dependencies: list[str]) -> JobPage:
    """All about a job."""
    return {**job(of), "executions": [execution(one) for one in executions], "dependencies": list(dependencies)}


def queue(of: "QueueStats") -> QueueView:
    """The facts of a queue."""
    return {
        "queue": of.queue,
        "counts": dict(of.counts),
        "total": of.total,
        "oldest": value(of.oldest),
        "paused": of.paused,
        "pause_reason": of.pause_reason,
    }


def worker(of: "WorkerInfo") -> WorkerView:
    """The facts of a worker."""
    found: Any = {field.name: value(getattr(of, field.name)) for field in fields(of)}
    found["metadata"] = found["metadata"] or {}
    view: WorkerView = found
    return view


def installation(app: "Werk") -> InstallationView:
    """Ask the database, once for each thing; counting reads every job."""
    from pgwerk import __version__  # noqa: PLC0415  # the package imports nothing by itself

    return {
        "pgwerk": __version__,
        "postgres": {"version": app.server_version(), "at": app.where},
        "schema": {
            "name": app.schema or "public",
            "prefix": app.prefix,
            "version": app.schema_version(),
            "pending": list(app.pending_migrations()),
        },
        "queues": [queue(one) for one in app.get_queue_stats()],
        "workers": [worker(one) for one in app.list_workers()],
        "at": datetime.now(UTC).isoformat(),
    }


def value(found: Any) -> Any:
    """What JSON can hold of *found*; the rest as text."""
    return _value(found, ())


def _value(found: Any, around: tuple[int, ...]) -> Any:
    if isinstance(found, dict | list | tuple | set | frozenset):
        if id(found) in around:
            return "(contains itself)"
        around = (*around, id(found))
        if isinstance(found, dict):
            return {_text(name): _value(item, around) for name, item in found.items()}
        items = [_value(item, around) for item in found]
        return items if isinstance(found, list | tuple) else sorted(items, key=repr)
    if isinstance(found, Undecodable):
        return {UNDECODABLE: found.reason, "text": found.text}
    return _scalar(found)


def _scalar(found: Any) -> Any:
    match found:
        case None | bool():
            return found
        case str():
            return str(found)
        case int():
            return int(found)
        case float():
            return float(found) if math.isfinite(found) else str(float(found))
        case datetime():
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).isoformat()
        case date() | time():
            return found.isoformat()
        case timedelta():
            return found.total_seconds()
        case _:
            return _text(found)


def _text(found: Any) -> str:
    try:
        return str(found)
    except Exception:  # noqa: BLE001  # whatever a user's class does there: one value must not hide the others
        return f"({type(found).__name__}, which cannot be shown)"
