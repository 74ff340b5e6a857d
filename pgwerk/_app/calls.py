"""From calls to jobs and from jobs to results, without a database: what both apps do before and after."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pgwerk._core.enqueue_options import split_options
from pgwerk._core.job import FailureMode, Job, JobStatus, whole_payload
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.statements.columns import INSERTED, JSON_COLUMNS
from pgwerk._core.statements.enqueue import Inserted
from pgwerk.errors import EnqueueError, JobError, JobNotFound

_SHOWN = frozenset(INSERTED) - {"wait_delay", "payload"}
_OTHER_JSON = JSON_COLUMNS - {"payload"}
_PLAIN = frozenset(("id", "function", "payload"))
"""The columns of a job without options."""

Options = Mapping[str, Any]
"""Options of a call, without their underscores."""


def split_call(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part the keyword arguments of a call into options and the handler's own."""
    return split_options(kwargs, frozenset({"conn", "sync"}))


def with_defaults(func: Any, options: Options) -> Options:
    """The options of a call, over those of the task that is called."""
    defaults = getattr(func, "__pgwerk_options__", None)
    if not defaults:
        return options
    return {**defaults, **{name: value for name, value in options.items() if value is not None}}


def job_of(new_job: NewJob, inserted: Inserted | None) -> Job | None:
    """The job that an order became, without reading it back. None: its key exists."""
    if inserted is None:
        return None
    given = new_job.values
    if given.keys() <= _PLAIN:
        values: dict[str, Any] = {"id": given["id"], "function": given["function"]}
    else:
        values = {name: value for name, value in given.items() if name in _SHOWN}
        for name in _OTHER_JSON & values.keys():
            values[name] = json.loads(values[name])
        if "failure_mode" in values:
            values["failure_mode"] = FailureMode(values["failure_mode"])
    values["payload"] = whole_payload(new_job.payload)
    values["status"] = inserted.status
    values["scheduled_at"] = inserted.scheduled_at
    values["enqueued_at"] = inserted.enqueued_at
    return Job.of(values)


# Results ----------------------------------------------------------------------------


def refuse_to_wait(what: str, options: Options) -> None:
    """Raise EnqueueError when a call that is waited for has a `_conn`."""
    if options.get("conn") is not None:
        raise EnqueueError(
            f"{what}() cannot wait for a job that is part of an open transaction: no worker sees it before the commit"
        )


def newly_enqueued(job: Job | None, options: Options) -> Job:
    """The job of a call that is waited for; raises JobError when its key was taken."""
    if job is None:
        raise _key_exists(options.get("key"))
    return job


def result_of(job: Job) -> Any:
    """The result of an ended job; raises JobError when it did not succeed."""
    if job.status is JobStatus.COMPLETE:
        return job.result
    reason = job.reason or "no reason was recorded"
    raise JobError(f"job {job.id} ({job.function}) {job.status.value}: {reason}", job)


def ids_to_wait_for(new_jobs: Sequence[NewJob], jobs: Sequence[Job | None], *, return_exceptions: bool) -> list[str]:
    """The ids of the jobs of a map; a key that exists is an error of the whole, unless errors are returned."""
    for new_job, job in zip(new_jobs, jobs, strict=True):
        if job is None and not return_exceptions:
            raise _key_exists(new_job.values.get("key"))
    return [job.id for job in jobs if job is not None]


def results_of(
    new_jobs: Sequence[NewJob], jobs: Sequence[Job | None], ended: Mapping[str, Job], *, return_exceptions: bool
) -> list[Any]:
    """The results of a map in the order of its calls."""
    results: list[Any] = []
    for new_job, job in zip(new_jobs, jobs, strict=True):
        try:
            results.append(_mapped(new_job, job, ended))
        except JobError as error:
            if not return_exceptions:
                raise
            results.append(error)
    return results


def _mapped(new_job: NewJob, job: Job | None, ended: Mapping[str, Job]) -> Any:
    if job is None:
        raise _key_exists(new_job.values.get("key"))
    if job.id not in ended:
        # Deleted between its end and our look.
        raise JobNotFound(job.id)
    return result_of(ended[job.id])


def _key_exists(key: object) -> JobError:
    return JobError(f"a job with the key {key!r} exists already; this call was not enqueued")
