"""What becomes of a job: the table, and what holds for every job and every outcome."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.job import ExecutionStatus, FailureMode, Job, JobStatus
from pgwerk._core.lifecycle import (
    FREE_INTERRUPTIONS,
    GIVEN_BACK,
    MAX_LOST,
    CallbackCall,
    Mark,
    Verdict,
    decide,
    retry_delay,
)
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

ACTIVE = JobStatus.ACTIVE
FAILED = Failed("tb", ("app.Custom", "builtins.ValueError", "builtins.Exception"))
CALLBACKS = {
    "on_success": "a.yes", "on_success_timeout": 1.0, "on_failure": "a.no", "on_failure_timeout": 2.0,
    "on_stopped": "a.stop", "on_stopped_timeout": 3.0,
}  # fmt: skip


def job(**values: Any) -> Job:
    return Job(**{"status": ACTIVE, "attempts": 1, "max_attempts": 1, **values})


def lost(error: str) -> Verdict:
    return Verdict(JobStatus.QUEUED, ExecutionStatus.FAILED, error=error, delay=0.0, uncount=True, mark=Mark.LOST)


def poison(error: str) -> Verdict:
    return Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error=error, mark=Mark.LOST)


def interrupted(delay: float) -> Verdict:
    return Verdict(
        JobStatus.SCHEDULED if delay else JobStatus.QUEUED,
        ExecutionStatus.ABORTED,
        delay=delay,
        uncount=True,
        mark=Mark.INTERRUPTED,
        error="interrupted: its worker stopped and gave it back",
    )


@pytest.mark.parametrize(
    ("values", "outcome", "verdict"),
    [
        ({}, Succeeded("1"), Verdict(JobStatus.COMPLETE, ExecutionStatus.COMPLETE, result="1")),
        ({}, FAILED, Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="tb")),
        ({}, TimedOut("late"), Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="late")),
        ({}, Lost("gone", begun=True), lost("gone")),
        ({"lost": 2}, Lost("gone", begun=True), lost("gone")),
        ({"lost": 3}, Lost("gone", begun=True), poison("gone; it was lost 4 times, and max_lost is 3")),
        ({"lost": 3, "max_lost": 4}, Lost("gone", begun=True), lost("gone")),
        ({"max_lost": 0}, Lost("gone", begun=True), poison("gone; it was lost once, and max_lost is 0")),
        ({"max_lost": 0, "max_attempts": 9}, Lost("gone", begun=True),
         poison("gone; it was lost once, and max_lost is 0")),
        ({"lost": 1, "max_lost": -1}, Lost("gone", begun=True),
         poison("gone; it was lost 2 times, and max_lost is -1")),
        ({"lost": 9, "max_lost": 0}, Lost("gone", begun=False), GIVEN_BACK),
        ({}, Lost("gone"), Verdict(JobStatus.QUEUED, ExecutionStatus.FAILED, delay=0.0, uncount=True, mark=Mark.DOUBT,
         error="gone; it may not have begun, so that this does not count")),
        ({"watched": 0, "claim_id": 7}, Lost("gone"), GIVEN_BACK),
        ({"watched": 6, "claim_id": 7}, Lost("gone"), GIVEN_BACK),
        ({"watched": 7, "claim_id": 7}, Lost("gone"), lost("gone")),
        ({"watched": 7, "claim_id": 7}, Lost("gone", begun=False), GIVEN_BACK),
        ({"max_lost": 0, "claim_id": 7}, Lost("gone"), GIVEN_BACK),
        ({"max_lost": 0, "watched": 7, "claim_id": 7}, Lost("gone"),
         poison("gone; it was lost once, and max_lost is 0")),
        ({}, Overdue("late"), Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="late")),
        ({"watched": 6, "claim_id": 7}, Overdue("late"), GIVEN_BACK),
        ({"watched": 6, "claim_id": 7}, Overdue("late", begun=True),
         Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="late")),
        ({}, Aborted(), Verdict(JobStatus.ABORTED, ExecutionStatus.ABORTED, error="aborted")),
        ({}, Interrupted(), Verdict(JobStatus.QUEUED, delay=0.0, uncount=True)),
        ({}, Interrupted(started=True), interrupted(0.0)),
        ({"interrupted": 2}, Interrupted(started=True), interrupted(0.0)),
        ({"interrupted": 3}, Interrupted(started=True), interrupted(1.0)),
        ({"interrupted": 9}, Interrupted(started=True), interrupted(60.0)),
        ({"interrupted": 10}, Interrupted(started=True),
         Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, mark=Mark.INTERRUPTED, error="interrupted: its worker "
                 "stopped before it ended, 11 times by now, so that this is an attempt")),
        ({"interrupted": 10, "max_attempts": 2}, Interrupted(started=True),
         Verdict(JobStatus.SCHEDULED, ExecutionStatus.FAILED, mark=Mark.INTERRUPTED, delay=60.0, error="interrupted: "
                 "its worker stopped before it ended, 11 times by now, so that this is an attempt")),
        ({"max_lost": 0}, Interrupted(started=True),
         Verdict(JobStatus.FAILED, ExecutionStatus.FAILED,
                 error="interrupted: its worker stopped; max_lost is 0, so that this is an attempt")),
        ({}, Interrupted(started=True, blame="too large"), lost("interrupted: too large")),
        ({"lost": 2}, Interrupted(started=True, blame="too large"),
         Verdict(JobStatus.SCHEDULED, ExecutionStatus.FAILED, error="interrupted: too large", delay=2.0, uncount=True,
                 mark=Mark.LOST)),
        ({"lost": 3}, Interrupted(started=True, blame="too large"),
         poison("interrupted: too large; it was lost 4 times, and max_lost is 3")),
        ({}, Interrupted(started=False, blame="too large"), GIVEN_BACK),
        ({"status": JobStatus.QUEUED, "attempts": 0}, Expired(), Verdict(JobStatus.ABORTED, error="expired")),
        ({"status": JobStatus.WAITING, "attempts": 0}, ParentFailed("dep"), Verdict(JobStatus.FAILED, error="dep")),
        ({"status": JobStatus.SCHEDULED, "attempts": 0}, Aborted("aborted: cancelled"),
         Verdict(JobStatus.ABORTED, error="aborted: cancelled")),
        ({"max_attempts": 2, "retry_intervals": [7.0]}, FAILED,
         Verdict(JobStatus.SCHEDULED, ExecutionStatus.FAILED, error="tb", delay=7.0)),
        ({"max_attempts": 2, "retry_intervals": [0]}, TimedOut("t"),
         Verdict(JobStatus.QUEUED, ExecutionStatus.FAILED, error="t", delay=0.0)),
        ({"max_attempts": 2, "retry_intervals": [7.0]}, Overdue("gone"),
         Verdict(JobStatus.QUEUED, ExecutionStatus.FAILED, error="gone", delay=0.0)),
        ({"max_attempts": 9, "no_retry": ["builtins.ValueError"]}, FAILED,
         Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="tb")),
        ({"max_attempts": 9}, Failed("tb", final=True), Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="tb")),
        ({"result_ttl": 5.0, "failure_ttl": 6.0}, Succeeded(), Verdict(JobStatus.COMPLETE, ExecutionStatus.COMPLETE,
        keep=5.0)),
        ({"result_ttl": 5.0, "failure_ttl": 6.0}, FAILED, Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="tb",
        keep=6.0)),
        ({"failure_mode": FailureMode.DELETE}, FAILED, Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="tb",
        delete=True)),
        ({"failure_mode": FailureMode.DELETE}, Succeeded(), Verdict(JobStatus.COMPLETE, ExecutionStatus.COMPLETE)),
        ({"failure_mode": FailureMode.DELETE, "on_failure": "a.no"}, FAILED,
         Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="tb", callback=CallbackCall("failure", "a.no", None))),
        (CALLBACKS, Succeeded(), Verdict(JobStatus.COMPLETE, ExecutionStatus.COMPLETE, callback=CallbackCall("success",
        "a.yes", 1.0))),
        (CALLBACKS, Overdue("x"), Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="x",
        callback=CallbackCall("failure", "a.no", 2.0))),
        ({**CALLBACKS, "max_lost": 0, "failure_mode": FailureMode.DELETE}, Lost("x", begun=True),
         Verdict(JobStatus.FAILED, ExecutionStatus.FAILED, error="x; it was lost once, and max_lost is 0",
                 mark=Mark.LOST, callback=CallbackCall("failure", "a.no", 2.0))),
        (CALLBACKS, Expired(), Verdict(JobStatus.ABORTED, ExecutionStatus.ABORTED, error="expired",
                                       callback=CallbackCall("stopped", "a.stop", 3.0))),
        ({"repeat_remaining": 2, "repeat_interval_secs": 9.0}, Succeeded(),
         Verdict(JobStatus.COMPLETE, ExecutionStatus.COMPLETE, repeat=9.0)),
        ({"repeat_remaining": 2, "repeat_intervals": [1, 2, 3]}, Succeeded(),
         Verdict(JobStatus.COMPLETE, ExecutionStatus.COMPLETE, repeat=2.0)),
        ({"repeat_remaining": 2, "repeat_interval_secs": 9.0}, FAILED, Verdict(JobStatus.FAILED,
        ExecutionStatus.FAILED, error="tb")),
        ({"repeat_remaining": 0, "repeat_interval_secs": 9.0}, Succeeded(), Verdict(JobStatus.COMPLETE,
        ExecutionStatus.COMPLETE)),
    ],
)  # fmt: skip
def test_each_outcome_has_its_verdict(values: dict[str, Any], outcome: Outcome, verdict: Verdict) -> None:
    assert decide(job(**values), outcome) == verdict


NUMBERS = st.floats(0, 1e6)
JOBS = st.builds(
    job,
    status=st.sampled_from(JobStatus),
    attempts=st.integers(0, 100),
    max_attempts=st.integers(1, 100),
    retry_intervals=st.none() | st.lists(NUMBERS, max_size=5),
    no_retry=st.none() | st.lists(st.sampled_from(["builtins.ValueError", "app.Custom", "other"]), max_size=3),
    repeat_remaining=st.none() | st.integers(-2, 12),
    repeat_interval_secs=st.none() | NUMBERS,
    repeat_intervals=st.none() | st.lists(NUMBERS, max_size=5),
    failure_mode=st.sampled_from(FailureMode),
    result_ttl=st.none() | NUMBERS,
    failure_ttl=st.none() | NUMBERS,
    on_success=st.none() | st.just("a.yes"),
    on_failure=st.none() | st.just("a.no"),
    on_stopped=st.none() | st.just("a.stop"),
    claim_id=st.just(7),
    watched=st.sampled_from([None, 0, 6, 7]),
    lost=st.integers(0, 5),
    max_lost=st.none() | st.integers(0, 5),
    interrupted=st.integers(0, 15),
)
OUTCOMES: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Succeeded, st.none() | st.just("1")),
    st.builds(
        Failed,
        st.just("tb"),
        st.lists(st.sampled_from(["builtins.ValueError", "app.Custom"])).map(tuple),
        st.booleans(),
    ),
    st.builds(TimedOut, st.just("late")),
    st.builds(Aborted),
    st.builds(Expired),
    st.builds(Lost, st.just("gone"), st.sampled_from([None, True, False])),
    st.builds(Overdue, st.just("gone"), st.sampled_from([None, True, False])),
    st.builds(Interrupted, st.booleans(), st.sampled_from([None, "too large"])),
    st.builds(ParentFailed, st.just("dep")),
)
DRAWS = st.floats(0, 1)


@given(JOBS, OUTCOMES, DRAWS)
def test_every_outcome_of_every_job_has_a_consistent_verdict(one: Job, outcome: Outcome, draw: float) -> None:
    verdict = decide(one, outcome, draw)
    assert verdict.terminal == (verdict.delay is None)
    assert verdict.delay is None or verdict.delay >= 0
    assert verdict.status in (
        JobStatus.COMPLETE,
        JobStatus.FAILED,
        JobStatus.ABORTED,
        JobStatus.QUEUED,
        JobStatus.SCHEDULED,
    )
    assert (verdict.status is JobStatus.SCHEDULED) == bool(verdict.delay)
    assert verdict.terminal or (verdict.callback, verdict.repeat, verdict.keep, verdict.delete) == (
        None,
        None,
        None,
        False,
    )
    assert verdict.repeat is None or verdict.status is JobStatus.COMPLETE
    assert verdict.repeat is None or verdict.repeat >= 0
    assert not (verdict.delete and verdict.callback)
    assert verdict.result is None or verdict.status is JobStatus.COMPLETE


@given(JOBS, OUTCOMES, DRAWS)
def test_attempts_never_exceed_the_maximum(one: Job, outcome: Outcome, draw: float) -> None:
    verdict = decide(one, outcome, draw)
    if one.attempts >= one.max_attempts and not verdict.uncount:
        assert verdict.terminal


@given(JOBS, st.lists(OUTCOMES, max_size=40), DRAWS)
def test_a_job_that_is_tried_until_it_ends_is_charged_no_more_than_it_has(
    one: Job, outcomes: list[Outcome], draw: float
) -> None:
    one.attempts, one.status = 0, JobStatus.ACTIVE
    charged = 0
    for outcome in outcomes:
        one.attempts += 1
        verdict = decide(one, outcome, draw)
        charged += not verdict.uncount
        one.attempts -= verdict.uncount
        assert one.attempts == charged <= one.max_attempts
        if verdict.terminal:
            break


@given(JOBS, OUTCOMES, DRAWS)
def test_aborting_always_ends_aborted(one: Job, outcome: Outcome, draw: float) -> None:
    one.status = JobStatus.ABORTING
    verdict = decide(one, outcome, draw)
    assert (verdict.status, verdict.execution, verdict.repeat) == (JobStatus.ABORTED, ExecutionStatus.ABORTED, None)


@given(JOBS, st.sampled_from([Interrupted(), Interrupted(blame="x"), Lost("x", begun=False)]), DRAWS)
def test_a_job_that_had_not_begun_is_given_back_as_it_was(one: Job, outcome: Outcome, draw: float) -> None:
    if one.status is not JobStatus.ABORTING:
        assert decide(one, outcome, draw) == GIVEN_BACK


@given(JOBS, st.lists(st.sampled_from([Interrupted(started=True), Interrupted(started=True, blame="x"),
                                       Lost("x", begun=True), Lost("x")])), st.integers(0, 5))  # fmt: skip
def test_nothing_that_begins_is_free_for_ever(one: Job, outcomes: list[Outcome], max_lost: int) -> None:
    one.status, one.attempts, one.lost, one.interrupted, one.watched = JobStatus.ACTIVE, 0, 0, 0, None
    limit = max_lost if one.max_lost is None else one.max_lost
    for starts, outcome in enumerate(outcomes * 200, 1):
        one.attempts += 1
        if one.watched is not None or limit == 0:
            one.watched = one.claim_id  # written down before it begins
        verdict = decide(one, outcome, max_lost=max_lost)
        one.attempts -= verdict.uncount
        one.lost += verdict.mark is Mark.LOST
        one.interrupted += verdict.mark is Mark.INTERRUPTED
        if verdict.mark in (Mark.LOST, Mark.DOUBT) and one.watched is None:
            one.watched = 0
        assert starts <= one.max_attempts + FREE_INTERRUPTIONS + limit + 1
        if limit == 0:
            assert starts <= one.max_attempts
        if verdict.terminal:
            break
    else:
        assert not outcomes


def test_a_job_that_kills_every_machine_begins_so_often() -> None:
    starts, one = 0, job(claim_id=1)
    while True:
        starts += 1
        if one.watched is not None:
            one.watched = one.claim_id
        verdict = decide(one, Lost("x"))
        if verdict.terminal:
            break
        one.lost += verdict.mark is Mark.LOST
        one.watched = one.watched or 0
    assert starts == MAX_LOST + 2


@given(JOBS, DRAWS)
def test_a_retry_waits_as_its_policy_says(one: Job, draw: float) -> None:
    delay = retry_delay(one, draw)
    if one.retry_intervals is None:
        assert 0 < delay <= 300
    else:
        assert delay in (one.retry_intervals or [0.0])


@pytest.mark.parametrize("odd", [5, "soon", {"a": 1}, [None], ["x"], [True], [-3], [1e300], [[1]]])
def test_odd_policies_of_foreign_rows_are_taken_as_no_wait_or_as_one_number(odd: Any) -> None:
    one = job(max_attempts=3, retry_intervals=odd, repeat_intervals=odd, repeat_remaining=1, no_retry=odd)
    assert 0 <= (decide(one, FAILED).delay or 0) <= 10 * 366 * 86400
    assert 0 <= (decide(one, Succeeded()).repeat or 0) <= 10 * 366 * 86400
