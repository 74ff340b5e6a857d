"""Ending and deleting single jobs by hand."""

from collections.abc import Sequence
from datetime import datetime

from pgwerk._core.operation import Steps, operation
from pgwerk._core.operations.settle import end_locked, release_locked, settle_claimed
from pgwerk._core.outcome import Aborted, Expired, Report
from pgwerk._core.statements import admin, deletions, dependents, permits, settling, workers
from pgwerk._core.statuses import EVERY, RUNNING, UNSTARTED


@operation(repeatable=True)
def abort(job_id: str) -> Steps[bool]:
    """Abort a job: at once when nobody runs it, else by asking its worker. False: it has ended, or is unknown."""
    jobs = yield from settling.lock([job_id], (*UNSTARTED, *RUNNING))
    if not jobs:
        return False
    job = jobs[0]
    if job.status in UNSTARTED:
        _ = yield from end_locked(jobs, lambda _: Aborted())
        return True
    if job.worker_id is not None and (yield from workers.living(job.worker_id)):
        return (yield from admin.start_abort(job_id))
    report = Report(job_id, job.claim_id or 0, Aborted())
    if not (yield from settle_claimed([report], job.worker_id)):
        _ = yield from end_locked(jobs, lambda _: Aborted())
    return True


@operation(repeatable=True)
def delete(ids: Sequence[str]) -> Steps[list[str]]:
    """Delete jobs in whatever state; those that wait for them end, or go on if they may. Deleted ids come back.

    A worker that runs one of them finds out when it settles, and changes nothing.
    """
    jobs = yield from settling.lock(sorted(ids), EVERY)
    if not jobs:
        return []
    found = [job.id for job in jobs]
    waiting = yield from dependents.lock_dependents(found)
    # First what follows from an end that these could not see.
    _ = yield from release_locked(waiting)
    held = sorted((job.group_key, job.id) for job in jobs if job.group_key and job.status in RUNNING)
    gone = yield from deletions.delete(found)
    keys = {job.group_key for job in jobs if job.group_key and job.status == "queued"}
    if held:
        keys.update((yield from permits.release_permits(held)))
    if keys:
        _ = yield from permits.ready(sorted(keys))
    _ = yield from release_locked(waiting)
    return gone


def sweep_away(ids: Sequence[str]) -> Steps[list[str]]:
    """Delete ended jobs that are locked, but not from under a transaction that is about to depend on one of them.

    Such a one stays for the next time, and what waits for the others sees how they ended. Deleted ids come back.
    """
    if not ids:
        return []
    free = yield from deletions.unheld(ids)
    if not free:
        return []
    _ = yield from release_locked((yield from dependents.lock_dependents(free)))
    return (yield from deletions.delete(free))


@operation(repeatable=True)
def expire(ids: Sequence[str]) -> Steps[int]:
    """End those of these jobs that were not started within their ttl; how many."""
    ended = yield from end_locked((yield from settling.lock_expired(ids)), lambda _: Expired())
    return len(ended)


@operation(repeatable=True)
def delete_outlived(ids: Sequence[str]) -> Steps[int]:
    """Delete those of these jobs that are past their retention; how many."""
    gone = yield from sweep_away((yield from deletions.lock_outlived(ids)))
    return len(gone)


@operation(repeatable=True)
def purge_some(statuses: Sequence[str], older_than: float, after: str, limit: int) -> Steps[tuple[int, str | None]]:
    """Delete up to *limit* ended jobs with ids from *after*; how many, and the last that was looked at."""
    found = yield from admin.purgeable(statuses, older_than, after, limit)
    gone = yield from sweep_away(found)
    return len(gone), (found[-1] if found else None)


@operation()
def update(
    job_id: str, *, at: datetime | None, delay: float | None, priority: int | None, meta: str | None
) -> Steps[bool]:
    """Change a job that has not started, or the meta of any. False: there is nothing to change."""
    changed = yield from admin.change(job_id, at=at, delay=delay, priority=priority, meta=meta)
    groups = [group for group in changed if group is not None]
    if groups:
        # It may have been the one whose turn it was.
        _ = yield from permits.ready(groups)
    return bool(changed)


@operation()
def requeue_some(queue: str | None, function: str | None, until: float, after: str, limit: int) -> Steps[list[str]]:
    """Queue up to *limit* failed or aborted jobs again, with ids from *after*; those that were found come back."""
    ids = yield from admin.requeueable(queue, function, until, after, limit)
    if ids:
        _ = yield from admin.requeue(ids)
    return ids


@operation(repeatable=True)
def pause(queue: str, reason: str | None) -> Steps[None]:
    """Let no worker claim from a queue; what its members of groups were offered is offered to others."""
    yield from admin.pause(queue, reason)
    if keys := (yield from admin.competing(queue)):
        _ = yield from permits.ready(keys)
