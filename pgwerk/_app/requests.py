"""What each method of an app asks: its arguments are checked here and made an operation, which either app runs."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pgwerk._core import options as opt
from pgwerk._core.enqueue_options import encode_meta
from pgwerk._core.ids import normal_id
from pgwerk._core.job import Job, JobExecution, JobStatus
from pgwerk._core.names import TABLES
from pgwerk._core.operation import Operation, Procedure, R, ask, then
from pgwerk._core.operations import manage, migrate, settle
from pgwerk._core.outcome import Aborted
from pgwerk._core.procedures import bulk
from pgwerk._core.procedures import sweep as sweeping
from pgwerk._core.schema import migrations
from pgwerk._core.statements import admin, permits, queries, schema
from pgwerk._core.statements.columns import Decode
from pgwerk._core.statements.queries import Filter
from pgwerk.errors import JobNotFound, WerkError

# Arguments --------------------------------------------------------------------------


def job_id(value: object) -> str:
    """The id of a job given as itself, a string or a UUID; raises JobNotFound for what cannot be one."""
    if isinstance(value, Job):
        return value.id
    found = normal_id(value)
    if found is None:
        raise JobNotFound(value)
    return found


def names_of(value: Any) -> tuple[str, ...]:
    """One or several names, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def statuses_of(value: Any) -> tuple[str, ...]:
    """One or several statuses, checked."""
    found = names_of(value)
    for name in found:
        if name not in set(JobStatus):
            raise ValueError(
                f"{name!r} is not a job status; choose from {', '.join(status.value for status in JobStatus)}"
            )
    return tuple(str(JobStatus(name)) for name in found)


def ended_statuses(value: Any) -> tuple[str, ...]:
    """One or several statuses, all of them terminal."""
    found = statuses_of(value)
    for name in found:
        if not JobStatus(name).terminal:
            raise ValueError(f"only ended jobs can be purged (complete, failed, aborted), not {name!r}")
    return found


def job_filter(**wanted: Any) -> Filter:
    """A `Filter` from the arguments of list_jobs."""
    before = wanted.pop("before", None)
    worker_id = wanted.pop("worker_id", None)
    return Filter(
        queues=names_of(wanted.pop("queue", None)),
        statuses=statuses_of(wanted.pop("status", None)),
        functions=names_of(wanted.pop("function", None)),
        worker_id=job_id(worker_id) if worker_id is not None else None,
        before=job_id(before) if before is not None else None,
        **wanted,
    )


def _raise_unless(id_: str) -> Callable[[Any], None]:
    def use(found: Any) -> None:
        if not found:
            raise JobNotFound(id_)

    return use


# Inspecting -------------------------------------------------------------------------


def get_job(job: Job | str, decode: Decode) -> Operation[Job]:
    """Read a job; raises JobNotFound."""
    id_ = job_id(job)

    def use(found: Job | None) -> Job:
        if found is None:
            raise JobNotFound(id_)
        return found

    return then(queries.get(id_, decode), use)


def list_jobs(decode: Decode, limit: int, offset: int, **wanted: Any) -> Operation[list[Job]]:
    """List jobs that fit."""
    limit = opt.whole("limit", limit, 0, 100_000)
    offset = opt.whole("offset", offset, 0, 2**62)
    return queries.list_jobs(job_filter(**wanted), limit, offset, decode)


def get_executions(job: Job | str, decode: Decode) -> Operation[list[JobExecution]]:
    """List the attempts at a job."""
    return queries.executions(job_id(job), decode)


def get_job_dependencies(job: Job | str) -> Operation[list[str]]:
    """List what a job depends on."""
    return queries.dependencies(job_id(job))


# Managing ---------------------------------------------------------------------------


def cancel_job(job: Job | str) -> Operation[bool]:
    """Abort a job that has not started."""
    return then(settle.end_unstarted([job_id(job)], Aborted("aborted: cancelled")), bool)


def abort_job(job: Job | str) -> Procedure[bool]:
    """Abort a job, also one that runs."""
    id_ = job_id(job)
    return _give_up([id_], manage.abort(id_))


def _give_up(ids: Sequence[str], op: Operation[R]) -> Procedure[R]:
    """Run *op*, by which these jobs may give back permits, and offer those once more after its commit.

    A member that was denied one meanwhile could not be seen before.
    """
    keys = yield from ask(permits.groups_of(ids))
    result = yield from ask(op)
    _ = yield from sweeping.offer(keys)
    return result


def requeue_job(job: Job | str) -> Operation[bool]:
    """Queue a failed or aborted job again."""
    return then(admin.requeue([job_id(job)]), bool)


def update_job(
    id_or_key: Job | str,
    decode: Decode,
    *,
    at: datetime | None,
    delay: float | timedelta | None,
    priority: int | None,
    meta: Mapping[str, Any] | None,
) -> Procedure[bool]:
    """Change a job, found by its id or else its key."""
    changes: dict[str, Any] = {
        "at": None if at is None else opt.due("at", at),
        "delay": None if delay is None else opt.seconds("delay", delay),
        "priority": None if priority is None else opt.whole("priority", priority, -32768, 32767),
        "meta": None if meta is None else encode_meta(dict(meta)),
    }
    return _update(id_or_key, decode, changes)


def _update(id_or_key: Job | str, decode: Decode, changes: dict[str, Any]) -> Procedure[bool]:
    try:
        id_ = job_id(id_or_key)
    except JobNotFound:
        found = yield from ask(queries.get_by_key(str(id_or_key), decode))
        if found is None:
            return False
        id_ = found.id
    return (yield from ask(manage.update(id_, **changes)))


def delete_job(job: Job | str) -> Procedure[None]:
    """Delete a job; raises JobNotFound."""
    id_ = job_id(job)
    return _give_up([id_], then(manage.delete([id_]), _raise_unless(id_)))


def touch_job(job: Job | str) -> Operation[None]:
    """Renew the heartbeat of a running job; raises JobNotFound."""
    id_ = job_id(job)
    return then(admin.touch_any(id_), _raise_unless(id_))


def purge_jobs(statuses: str | Sequence[str], older_than_days: float) -> Procedure[int]:
    """Delete jobs that ended long ago."""
    age = opt.seconds("older_than_days", older_than_days) * 86400
    return bulk.purge(ended_statuses(statuses), age)


# Maintenance ------------------------------------------------------------------------


def sweep(live: float, stuck: float | None, max_lost: int) -> Procedure[list[str]]:
    """Recover and mend what can be; the ids of recovered jobs."""
    swept = yield from sweeping.sweep(live, stuck, max_lost, seen=None)
    return swept.recovered


def vacuum() -> Procedure[None]:
    """VACUUM ANALYZE all tables, one by one."""
    for table in TABLES:
        if table != "worker_jobs":
            yield from ask(admin.vacuum(table))


def truncate(*, allowed: bool) -> Operation[None]:
    """Delete everything, where that is allowed."""
    if not allowed:
        raise WerkError("truncate() deletes every job: it needs WerkConfig(allow_truncate=True)")
    return schema.truncate_all()


def pending_migrations() -> Operation[list[str]]:
    """Name the migrations that are not applied."""
    return then(migrate.version(), lambda found: [one.label for one in migrations() if one.version > found])
