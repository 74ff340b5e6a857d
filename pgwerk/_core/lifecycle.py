"""What becomes of a job: one pure function from an outcome to everything that must be written.

::

    waiting ──(dependencies done)──> queued <──(due)── scheduled
                                       │                   ▲
                                    (claim)            (retry later)
                                       ▼                   │
                complete <──────── active ─────────────────┘
                                    │  └──(abort)──> aborting ──> aborted
                                    ▼
                                  failed

After an attempt, a job goes on by what happened to it:

    outcome                       goes to                              the attempt
    Succeeded                     complete                             counts
    Failed, TimedOut              queued or scheduled, while there     counts
                                  are attempts; otherwise failed
    Overdue                       the same, at once                    counts; not if it had not begun
    Lost, had begun               queued; failed after max_lost        does not count, but the loss does
    Lost, nobody knows            queued, and watched from now on      does not count, once
    Lost, had not begun           queued                               does not count
    Interrupted, had begun        queued or scheduled                  does not count for FREE_INTERRUPTIONS times
    Interrupted, had not begun    queued                               does not count
    ParentFailed                      failed                               there was none
    Aborted, Expired              aborted                              counts, if there was one

What always holds:

- a verdict depends on the job's row, the outcome and the draw alone;
- only a terminal one has a callback, a repetition, a retention or a deletion, and only one that is not has a delay;
- nothing that has begun goes back free of charge for ever: each way back counts something that has a limit;
- a job that is being aborted ends as aborted, whatever its handler did meanwhile.

The clock of delays is the database's: a verdict says *in how many seconds*, the statement that writes it adds now().
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import assert_never

from pgwerk._core import backoff
from pgwerk._core.job import ExecutionStatus, FailureMode, Job, JobStatus
from pgwerk._core.outcome import (
    Aborted,
    Expired,
    Failed,
    Interrupted,
    Lost,
    Outcome,
    Overdue,
    ParentFailed,
    Succeeded,
    TimedOut,
)
from pgwerk._core.statuses import RUNNING
from pgwerk.errors import JobTimeout

MAX_LOST = 3
"""How many times a job's worker may die while it runs, unless the job or the configuration says otherwise."""
FREE_INTERRUPTIONS = 10
"""How many times a shutdown may interrupt a job without a charge: often enough for deployments, and not for ever."""
AT_ONCE = 3
"""From this many interruptions on, a job waits before it runs again: longer each time, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE = 60.0
_TIMEOUT = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in JobTimeout.__mro__)
"""What a timeout is called in `no_retry`."""


@dataclass(frozen=True, slots=True)
class CallbackCall:
    """A callback to enqueue: which of the three, its dotted path, its own timeout in seconds."""

    kind: str
    function: str
    timeout: float | None


class Mark(StrEnum):
    """What to note on the row of a job that goes back without a charge."""

    LOST = "lost"
    """Its worker died while it ran: count that, and watch it from now on."""
    DOUBT = "doubt"
    """Its worker died, and nobody knows whether it had begun: watch it from now on."""
    INTERRUPTED = "interrupted"
    """A shutdown interrupted it: count that."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Everything that is written about a job in one transaction."""

    status: JobStatus
    execution: ExecutionStatus | None = None
    """How to record the attempt; None when no attempt ended with this."""
    result: str | None = None
    error: str | None = None
    delay: float | None = None
    """Seconds until it may run again; None unless it will."""
    uncount: bool = False
    """The attempt is not charged."""
    mark: Mark | None = None
    keep: float | None = None
    """Seconds to keep the ended row; None is for ever."""
    callback: CallbackCall | None = None
    repeat: float | None = None
    """Seconds until the next repetition, a job of its own; None is none."""
    delete: bool = False

    @property
    def terminal(self) -> bool:
        """Whether the job ends with this."""
        return self.status.terminal


DONE = Verdict(JobStatus.COMPLETE, ExecutionStatus.COMPLETE)
"""The verdict of most jobs: complete, without a result, and nothing follows."""
GIVEN_BACK = Verdict(JobStatus.QUEUED, delay=0.0, uncount=True)
"""The verdict of jobs that had not begun: nothing has happened to them."""


def _has_no_consequences(job: Job) -> bool:
    return job.result_ttl is None and job.on_success is None and not job.repeat_remaining


def decide(  # noqa: C901, PLR0912  # one case an outcome
    job: Job, outcome: Outcome, draw: float = 0.0, max_lost: int = MAX_LOST
) -> Verdict:
    """Decide what becomes of *job* after *outcome*; *draw* (0 to 1) spreads default back-off.

    *max_lost*: how many times a job without a limit of its own may be lost.

    A job that is being aborted ends as aborted, whatever its handler managed to do meanwhile.
    """
    if job.status is JobStatus.ABORTING and not isinstance(outcome, Aborted):
        outcome = Aborted()
    match outcome:
        case Succeeded(result):
            if result is None and _has_no_consequences(job):
                return DONE
            return Verdict(
                JobStatus.COMPLETE,
                ExecutionStatus.COMPLETE,
                result=result,
                keep=job.result_ttl,
                callback=_callback(job, "success"),
                repeat=_next_repeat(job),
            )
        case Failed(error, kinds, final):
            if final or _is_not_retried(job, kinds):
                return _failed(job, error)
            return _retry(job, error, retry_delay(job, draw))
        case TimedOut(error):
            if _is_not_retried(job, _TIMEOUT):
                return _failed(job, error)
            return _retry(job, error, retry_delay(job, draw))
        case Lost(error, begun):
            return _lost(job, error, begun, max_lost)
        case Overdue(error, begun):
            # A beginning that is written down, and was not for this claim, has not happened.
            if begun is False or (begun is None and job.watched is not None and job.watched != job.claim_id):
                return GIVEN_BACK
            return _retry(job, error, 0.0)
        case ParentFailed(error):
            return _failed(job, error)
        case Aborted(error) | Expired(error):
            return Verdict(
                JobStatus.ABORTED,
                ExecutionStatus.ABORTED if job.status in RUNNING else None,
                error=error,
                keep=job.failure_ttl,
                callback=_callback(job, "stopped"),
            )
        case Interrupted(started, blame):
            return _interrupted(job, blame, max_lost) if started else GIVEN_BACK
        case _:
            assert_never(outcome)


def _is_not_retried(job: Job, kinds: Sequence[str]) -> bool:
    return isinstance(job.no_retry, list) and any(kind in job.no_retry for kind in kinds)


def retry_delay(job: Job, draw: float) -> float:
    """Seconds before the attempt after `job.attempts`: its own intervals, else jittered exponential back-off."""
    if job.retry_intervals is not None:
        return backoff.interval(job.retry_intervals, job.attempts - 1)
    return backoff.jittered(backoff.exponential(job.attempts), draw)


def _retry(job: Job, error: str, delay: float) -> Verdict:
    if job.attempts >= job.max_attempts:
        return _failed(job, error)
    status = JobStatus.SCHEDULED if delay > 0 else JobStatus.QUEUED
    return Verdict(status, ExecutionStatus.FAILED, error=error, delay=delay)


def _lost(job: Job, error: str, begun: bool | None, max_lost: int, delay: float = 0.0) -> Verdict:
    """Run a job again whose worker died, without spending an attempt; after *max_lost* times it is poison."""
    limit = max_lost if job.max_lost is None else job.max_lost
    if begun is None:
        if job.watched is None and limit > 0:
            # The doubt is the job's benefit, and the last one.
            return Verdict(
                JobStatus.QUEUED,
                ExecutionStatus.FAILED,
                error=f"{error}; it may not have begun, so that this does not count",
                delay=0.0,
                uncount=True,
                mark=Mark.DOUBT,
            )
        begun = job.watched is not None and job.watched == job.claim_id
    if not begun:
        return GIVEN_BACK
    if job.lost >= limit:
        times = "once" if job.lost < 1 else f"{job.lost + 1} times"
        return replace(_failed(job, f"{error}; it was lost {times}, and max_lost is {limit}"), mark=Mark.LOST)
    return Verdict(
        JobStatus.SCHEDULED if delay > 0 else JobStatus.QUEUED,
        ExecutionStatus.FAILED,
        error=error,
        delay=delay,
        uncount=True,
        mark=Mark.LOST,
    )


def _interrupted(job: Job, blame: str | None, max_lost: int) -> Verdict:
    """Give a job back that a shutdown interrupted: free for the first times, never for ever."""
    limit = max_lost if job.max_lost is None else job.max_lost
    if limit <= 0:
        # It must not be begun again for nothing: at most as often as it has attempts.
        return _retry(job, "interrupted: its worker stopped; max_lost is 0, so that this is an attempt", 0.0)
    if blame is not None:
        pause = backoff.exponential(job.lost, base=1.0) if job.lost > 0 else 0.0
        return _lost(job, f"interrupted: {blame}", True, max_lost, pause)
    times = job.interrupted + 1
    pause = backoff.exponential(times - AT_ONCE, base=1.0, cap=LONGEST_PAUSE) if times > AT_ONCE else 0.0
    if times > FREE_INTERRUPTIONS:
        error = f"interrupted: its worker stopped before it ended, {times} times by now, so that this is an attempt"
        return replace(_retry(job, error, pause), mark=Mark.INTERRUPTED)
    return Verdict(
        JobStatus.SCHEDULED if pause > 0 else JobStatus.QUEUED,
        ExecutionStatus.ABORTED,
        error="interrupted: its worker stopped and gave it back",
        delay=pause,
        uncount=True,
        mark=Mark.INTERRUPTED,
    )


def _failed(job: Job, error: str) -> Verdict:
    callback = _callback(job, "failure")
    return Verdict(
        JobStatus.FAILED,
        ExecutionStatus.FAILED if job.status in RUNNING else None,
        error=error,
        keep=job.failure_ttl,
        callback=callback,
        # With a callback, the row stays until the callback (which reads it) has ended.
        delete=job.failure_mode == FailureMode.DELETE and callback is None,
    )


def _callback(job: Job, kind: str) -> CallbackCall | None:
    function = getattr(job, f"on_{kind}")
    timeout = getattr(job, f"on_{kind}_timeout")
    return CallbackCall(kind, function, timeout) if function else None


def _next_repeat(job: Job) -> float | None:
    remaining = job.repeat_remaining or 0
    if remaining < 1:
        return None
    if job.repeat_intervals and isinstance(job.repeat_intervals, list):
        # Counted from the last, so that a row needs no memory of how many runs there were.
        done = len(job.repeat_intervals) - remaining
        return backoff.interval(job.repeat_intervals, done)
    return job.repeat_interval_secs or 0.0
