"""Settling: everything that follows from an outcome, in one transaction, fenced by the claim."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from pgwerk._core.job import Job, JobStatus
from pgwerk._core.lifecycle import MAX_LOST, Verdict, decide
from pgwerk._core.operation import Steps, operation
from pgwerk._core.outcome import Outcome, ParentFailed, Report
from pgwerk._core.statements import deletions, dependents, permits, running, settling
from pgwerk._core.statements.enqueue import Values, insert_many
from pgwerk._core.statuses import RUNNING, UNSTARTED

Settled: TypeAlias = "dict[str, Verdict]"
"""What was written, by job id; a job that is not in it was lost before."""

Ended: TypeAlias = "tuple[Job, Verdict]"
"""A job that was locked, and what was written about it."""

T = TypeVar("T")
BATCH = 1000
"""How many jobs a statement about consequences is given."""

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
    jobs = yield from settling.lock_claimed([(r.job_id, r.claim) for r in reports])
    return (yield from settle_locked(jobs, reports, worker, draw, max_lost))


def settle_locked(
    jobs: Sequence[Job], reports: Sequence[Report], worker: str | None, draw: float = 0.0, max_lost: int = MAX_LOST
) -> Steps[Settled]:
    """Write the outcomes of those jobs that are locked, each under its claim."""
    by_id = {report.job_id: report for report in reports}
    verdicts = {job.id: decide(job, by_id[job.id].outcome, draw, max_lost) for job in jobs}
    if not verdicts:
        return {}
    entries = [(by_id[id_], verdict) for id_, verdict in verdicts.items()]
    _ = yield from running.close(entries, worker, whole=True)
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
    yield from _follow((yield from _end(jobs, outcome_of)))
    return [job.id for job in jobs]


def _end(jobs: Sequence[Job], outcome_of: Callable[[Job], Outcome]) -> Steps[list[Ended]]:
    ended = [(job, decide(job, outcome_of(job))) for job in jobs]
    yield from settling.end_unstarted([(job.id, verdict) for job, verdict in ended])
    return ended


# Dependents ---------------------------------------------------------------------------------------


@operation(repeatable=True)
def release_waiting(ids: Sequence[str]) -> Steps[int]:
    """Release those of these waiting jobs whose dependencies are met, end the hopeless ones; how many moved."""
    return (yield from release(ids))


def release(ids: Sequence[str]) -> Steps[int]:
    """The steps of `release_waiting`, inside a transaction of somebody else's."""
    # The lock orders us with a parent that ends at the same time: whoever comes second sees both.
    waiting = yield from dependents.lock_waiting(sorted(ids))
    return (yield from release_locked(waiting))


def release_locked(ids: Sequence[str]) -> Steps[int]:
    """Release or end waiting jobs that are locked; how many moved."""
    moved = 0
    for batch in _batches(ids):
        released, failed_dependents = yield from _check_dependencies(batch)
        yield from _follow(failed_dependents)
        moved += released + len(failed_dependents)
    return moved


def _check_dependencies(ids: Sequence[str]) -> Steps[tuple[int, list[Ended]]]:
    """Release those whose dependencies are met, and write the ends of those for which there is no hope."""
    checked = yield from dependents.check_dependencies(ids)
    return len(checked.released), (yield from _fail_dependents(checked.failed_dependents))


def _fail_dependents(failed_dependents: Sequence[tuple[str, str]]) -> Steps[list[Ended]]:
    if not failed_dependents:
        return []
    failed_parents = dict(failed_dependents)
    jobs = yield from settling.lock(sorted(failed_parents), ("waiting",))
    if not jobs:
        return []
    return (yield from _end(jobs, lambda job: ParentFailed(f"dependency failed: {failed_parents[job.id]}")))


def _follow(ended: Sequence[Ended]) -> Steps[None]:
    """What follows from verdicts that are written: permits, callbacks, repeats, dependents, deletions.

    The end of a dependent has consequences too, and so on at any depth. All of it is one transaction, in batches.
    """
    levels = deque(_batches(ended))
    while levels:
        level = levels.popleft()
        yield from _give_back(level)
        over = [(job, verdict) for job, verdict in level if verdict.terminal]
        if not over:
            continue
        yield from _call_and_repeat(over)
        ids, leavers = [job.id for job, _ in over], _leavers(over)
        failed = [job.id for job, verdict in over if verdict.status is not JobStatus.COMPLETE]
        # All that have no hope without these, at whatever depth, are found at once: a chain is no worse than a fan.
        doomed = (yield from dependents.doomed(failed)) if failed else []
        for batch in _batches(doomed):
            failed_dependents = yield from _fail_dependents(batch)
            yield from _call_and_repeat(failed_dependents)
            ids += [job.id for job, _ in failed_dependents]
            leavers.add(_leavers(failed_dependents))
        # What is left are those that may run, and those that another parent of theirs has failed.
        for waiting in _batches((yield from dependents.lock_dependents(ids))):
            _, failed_dependents = yield from _check_dependencies(waiting)
            if failed_dependents:
                levels.append(failed_dependents)
        yield from _delete_ended(leavers)


def _give_back(ended: Sequence[Ended]) -> Steps[None]:
    stopped = [job for job, _ in ended if job.group_key and job.status in RUNNING]
    if stopped:
        freed = yield from permits.release_permits(sorted((job.group_key or "", job.id) for job in stopped))
        if freed:
            _ = yield from permits.ready(freed)
    # It may have been the one that was let compete for a free permit.
    left = {job.group_key for job, v in ended if v.terminal and job.group_key and job.status is JobStatus.QUEUED}
    if left:
        _ = yield from permits.ready(sorted(left))


def _call_and_repeat(over: Sequence[Ended]) -> Steps[None]:
    callbacks = [callback_job(job, verdict) for job, verdict in over if verdict.callback]
    if callbacks:
        _ = yield from insert_many(callbacks, always_tell=True)
    repeats = [(job, verdict.repeat) for job, verdict in over if verdict.repeat is not None]
    if repeats:
        yield from settling.take_keys([job.id for job, _ in repeats if job.key])
        yield from settling.repeat(repeats)


@dataclass
class _Leavers:
    """Ended jobs whose rows may go with them."""

    deleted: list[str]
    """Those that do not want to be kept."""
    callbacks: list[str]
    """Callbacks: the job that they were about may have waited for their end."""

    def add(self, others: "_Leavers") -> None:
        self.deleted += others.deleted
        self.callbacks += others.callbacks


def _leavers(over: Sequence[Ended]) -> _Leavers:
    return _Leavers([job.id for job, verdict in over if verdict.delete], [job.id for job, _ in over if job.callback_of])


def _delete_ended(leavers: _Leavers) -> Steps[None]:
    gone = leavers.deleted
    if leavers.callbacks:
        gone += yield from deletions.finished_callbacks(leavers.callbacks)
    for batch in _batches(sorted(gone)):
        _ = yield from deletions.delete(batch)


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + BATCH] for start in range(0, len(items), BATCH))


def callback_job(job: Job, verdict: Verdict) -> Values:
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
