"""Settling: everything that follows from an outcome, in one transaction, fenced by the claim."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pgwerk._core.job import Job, JobStatus
from pgwerk._core.lifecycle import MAX_LOST, Verdict, decide
from pgwerk._core.operation import Steps, operation
from pgwerk._core.outcome import Orphaned, Outcome, Report
from pgwerk._core.statements import closing, settling
from pgwerk._core.statements.enqueue import NewJob, insert_many

UNSTARTED = ("queued", "scheduled", "waiting")

Settled: TypeAlias = "dict[str, Verdict]"
"""What was written, by job id; a job that is not in it was lost before."""

CALLBACK_ATTEMPTS = 5
"""One whose process dies runs again; one that raises does not (`no_retry`)."""
CALLBACK_LOSSES = CALLBACK_ATTEMPTS - 1
"""The same for losses, whatever holds for the jobs of the app: it runs late rather than never."""


@operation(repeatable=True)
def settle(
    reports: Sequence[Report], worker: str | None, draw: float = 0.0, max_lost: int = MAX_LOST
) -> Steps[Settled]:
    """Write outcomes of claimed jobs with all that follows from them.

    Reports about a claim that a job no longer has change nothing.
    """
    return (yield from settle_claimed(reports, worker, draw, max_lost))


def settle_claimed(
    reports: Sequence[Report], worker: str | None, draw: float = 0.0, max_lost: int = MAX_LOST
) -> Steps[Settled]:
    """The steps of `settle`, inside a transaction of somebody else's."""
    by_id = {report.job_id: report for report in reports}
    jobs = yield from settling.lock_claimed([(r.job_id, r.claim) for r in reports])
    verdicts = {job.id: decide(job, by_id[job.id].outcome, draw, max_lost) for job in jobs}
    if not verdicts:
        return {}
    entries = [(by_id[id_], verdict) for id_, verdict in verdicts.items()]
    _ = yield from closing.close(entries, worker, whole=True)
    yield from _follow([(job, verdicts[job.id]) for job in jobs])
    return verdicts


@operation(repeatable=True)
def end_unstarted(ids: Sequence[str], outcome: Outcome) -> Steps[list[str]]:
    """End those of these jobs that have not started; their ids come back."""
    return (yield from end_locked((yield from settling.lock(ids, UNSTARTED)), lambda _: outcome))


def end_locked(jobs: Sequence[Job], outcome_of: Callable[[Job], Outcome]) -> Steps[list[str]]:
    """End jobs that are locked and that no worker holds, with all that follows."""
    if not jobs:
        return []
    ended = [(job, decide(job, outcome_of(job))) for job in jobs]
    yield from settling.end_unstarted([(job.id, verdict) for job, verdict in ended])
    yield from _follow(ended)
    return [job.id for job in jobs]


@operation(repeatable=True)
def release_waiting(ids: Sequence[str]) -> Steps[int]:
    """Release those of these waiting jobs whose dependencies are met, end the hopeless ones; how many moved."""
    return (yield from release(ids))


def release(ids: Sequence[str]) -> Steps[int]:
    """The steps of `release_waiting`, inside a transaction of somebody else's."""
    # The lock orders us with a parent that ends at the same time: whoever comes second sees both.
    waiting = yield from settling.lock(sorted(ids), ("waiting",))
    return (yield from _release_locked([job.id for job in waiting]))


def _release_locked(ids: Sequence[str]) -> Steps[int]:
    if not ids:
        return 0
    judged = yield from settling.judge(ids)
    culprits = dict(judged.orphans)
    orphans = yield from settling.lock(sorted(culprits), ("waiting",))
    ended = yield from end_locked(orphans, lambda job: Orphaned(f"dependency failed: {culprits[job.id]}"))
    return len(judged.released) + len(ended)


def _follow(ended: Sequence[tuple[Job, Verdict]]) -> Steps[None]:
    """What follows from verdicts that are written: permits, callbacks, repeats, dependents, deletions."""
    stopped = [job for job, _ in ended if job.group_key and job.status in (JobStatus.ACTIVE, JobStatus.ABORTING)]
    if stopped:
        freed = yield from settling.release_permits(sorted((job.group_key or "", job.id) for job in stopped))
        if freed:
            _ = yield from settling.ready(freed)
    over = [(job, verdict) for job, verdict in ended if verdict.terminal]
    # It may have been the one that was let compete for a free permit.
    left = sorted({job.group_key for job, _ in over if job.group_key and job.status is JobStatus.QUEUED})
    if left:
        _ = yield from settling.ready(left)
    if not over:
        return
    callbacks = [callback_job(job, verdict) for job, verdict in over if verdict.callback]
    if callbacks:
        _ = yield from insert_many(callbacks, always_tell=True)
    repeats = [(job, verdict.repeat) for job, verdict in over if verdict.repeat is not None]
    if repeats:
        yield from settling.take_keys([job.id for job, _ in repeats if job.key])
        yield from settling.repeat(repeats)
    dependents = yield from settling.lock_dependents([job.id for job, _ in over])
    _ = yield from _release_locked(dependents)
    yield from _delete_ended(over)


def _delete_ended(over: Sequence[tuple[Job, Verdict]]) -> Steps[None]:
    gone = [job.id for job, verdict in over if verdict.delete]
    callbacks = [job.id for job, _ in over if job.callback_of]
    if callbacks:
        gone += yield from settling.finished_callbacks(callbacks)
    if gone:
        _ = yield from settling.delete(sorted(gone))


def callback_job(job: Job, verdict: Verdict) -> NewJob:
    """The job that runs a callback; it finds the ended job by `callback_of`."""
    assert verdict.callback is not None
    values: dict[str, Any] = {
        "function": verdict.callback.function,
        "queue": job.queue,
        "priority": job.priority,
        "callback_of": job.id,
        "callback_kind": verdict.callback.kind,
        "max_attempts": CALLBACK_ATTEMPTS,
        "max_lost": CALLBACK_LOSSES,
        "no_retry": '["builtins.BaseException"]',
    }
    if verdict.callback.timeout is not None:
        values["timeout_secs"] = verdict.callback.timeout
    return values
