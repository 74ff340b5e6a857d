"""Closing attempts: the fence, what each outcome writes, executions, retention, what is left to the whole settle."""

from datetime import timedelta

import pytest

from pgwerk._core.claim import Claimed
from pgwerk._core.job import JobStatus
from pgwerk._core.lifecycle import Verdict
from pgwerk._core.operations import manage
from pgwerk._core.operations import settle as op
from pgwerk._core.operations.turn import Turn, turn
from pgwerk._core.operations.wait import await_ends
from pgwerk._core.options import Retry
from pgwerk._core.outcome import Aborted, Failed, Interrupted, Lost, Outcome, Succeeded, TimedOut
from pgwerk._core.statements import claims, queries, running, workers
from pgwerk._memory.messages import DONE
from tests.database.builders import OTHER, WORKER, Desk, entry, failed, new, report

WAYS = pytest.mark.parametrize("whole", [False, True], ids=["in a batch", "in a settle"])


def end(desk: Desk, taken: Claimed, outcome: Outcome | None, *, whole: bool) -> bool:
    return desk.end(taken, outcome) if whole else bool(desk.close(taken, outcome))


@WAYS
def test_success_is_written_with_its_result_and_its_execution(desk: Desk, whole: bool) -> None:
    taken = desk.take(1)
    assert end(desk, taken, Succeeded('{"a": 1}'), whole=whole)
    row = desk.row(taken)
    assert (row["status"], row["result"], row["error"], row["worker_id"]) == ("complete", {"a": 1}, None, None)
    assert row["started_at"] < row["completed_at"] < desk.now()
    assert row["claim_id"] == taken.claim
    (execution,) = desk.run(queries.executions(taken.job.id, str))
    assert (execution.attempt, execution.status, execution.result, execution.worker_id) == (
        1,
        "complete",
        '{"a": 1}',
        WORKER,
    )
    assert execution.duration == pytest.approx(0.1, abs=0.01)


@WAYS
def test_a_failure_without_attempts_left_is_final(desk: Desk, whole: bool) -> None:
    taken = desk.take()
    assert end(desk, taken, failed("boom"), whole=whole)
    row = desk.row(taken)
    assert (row["status"], row["error"], row["result"], row["attempts"]) == ("failed", "boom", None, 1)
    assert row["completed_at"] is not None
    assert desk.executions(taken) == [(1, "failed")]


@WAYS
def test_a_retry_at_once_is_queued_in_its_old_place(desk: Desk, whole: bool) -> None:
    taken = desk.take(retry=Retry(2))
    place = desk.row(taken)["scheduled_at"]
    assert end(desk, taken, failed("boom"), whole=whole)
    row = desk.row(taken)
    assert (row["status"], row["error"], row["scheduled_at"]) == ("queued", "boom", place)
    assert (row["started_at"], row["completed_at"], row["worker_id"]) == (None, None, None)
    (again,) = desk.claim()
    assert again.job.attempts == 2
    assert end(desk, again, Succeeded("2"), whole=whole)
    assert desk.row(taken)["error"] is None
    assert desk.executions(taken) == [(1, "failed"), (2, "complete")]
    assert desk.one("select error from {executions} where job_id = %s order by id limit 1", taken.job.id) == "boom"


@WAYS
def test_a_later_retry_is_scheduled_by_its_interval(desk: Desk, whole: bool) -> None:
    taken = desk.take(retry=Retry(4, intervals=[10, 20]))
    for expected in (10, 20, 20):
        assert end(desk, taken, TimedOut("late"), whole=whole)
        row = desk.row(taken)
        assert row["status"] == "scheduled"
        left = (row["scheduled_at"] - desk.now()).total_seconds()
        assert left == pytest.approx(expected, abs=2)
        assert desk.claim() == []
        again = desk.run(claims.claim_one(taken.job.id, WORKER))
        assert again is not None
        taken = again
    assert end(desk, taken, failed(), whole=whole)
    assert desk.status(taken) == "failed"


@WAYS
def test_an_error_that_is_not_to_be_retried_fails_at_once(desk: Desk, whole: bool) -> None:
    taken = desk.take(retry=Retry(5, no_retry=(ValueError,)))
    assert end(desk, taken, failed(), whole=whole)
    assert desk.status(taken) == "failed"
    taken = desk.take(retry=Retry(5, no_retry=(KeyError,)))
    assert end(desk, taken, failed(), whole=whole)
    assert desk.status(taken) == "queued"
    assert desk.run(op.end_unstarted([taken.job.id], Aborted()))
    taken = desk.take(retry=5)
    assert end(desk, taken, Failed("no such function", final=True), whole=whole)
    assert desk.status(taken) == "failed"


@WAYS
@pytest.mark.parametrize("started", [False, True])
def test_a_give_back_uncounts_the_attempt_and_keeps_the_place(desk: Desk, whole: bool, started: bool) -> None:
    taken = desk.take()
    before = desk.row(taken)
    assert end(desk, taken, Interrupted(started), whole=whole)
    row = desk.row(taken)
    assert (row["status"], row["attempts"], row["error"], row["worker_id"]) == ("queued", 0, None, None)
    assert row["scheduled_at"] == before["scheduled_at"]
    assert desk.executions(taken) == ([(1, "aborted")] if started else [])
    (again,) = desk.claim()
    assert again.job.attempts == 1


@WAYS
def test_a_give_back_of_a_job_that_never_started_keeps_its_ttl(desk: Desk, whole: bool) -> None:
    taken = desk.take(ttl=60)
    assert desk.row(taken)["expires_at"] is None
    assert end(desk, taken, Interrupted(), whole=whole)
    row = desk.row(taken)
    assert row["expires_at"] == row["scheduled_at"] + timedelta(seconds=60)


@WAYS
def test_a_job_that_started_within_its_ttl_does_not_expire_any_more(desk: Desk, whole: bool) -> None:
    taken = desk.take(ttl=60, retry=3)
    assert end(desk, taken, Interrupted(started=True), whole=whole)
    assert desk.row(taken)["expires_at"] is None
    (again,) = desk.claim()
    assert end(desk, again, failed(), whole=whole)
    assert desk.row(taken)["expires_at"] is None


@WAYS
def test_a_give_back_after_a_failure_keeps_the_error_of_the_failure(desk: Desk, whole: bool) -> None:
    taken = desk.take(retry=3)
    assert end(desk, taken, failed("first"), whole=whole)
    (again,) = desk.claim()
    assert end(desk, again, Interrupted(started=True), whole=whole)
    row = desk.row(taken)
    assert (row["error"], row["attempts"]) == ("first", 1)


@WAYS
def test_retention_starts_at_the_end(desk: Desk, whole: bool) -> None:
    for outcome, seconds in ((Succeeded(), 60), (failed(), 600)):
        taken = desk.take(result_ttl=60, failure_ttl=600)
        assert end(desk, taken, outcome, whole=whole)
        left = desk.row(taken)["expires_at"] - desk.now()
        assert left.total_seconds() == pytest.approx(seconds, abs=2)
    taken = desk.take()
    assert end(desk, taken, Succeeded(), whole=whole)
    assert desk.row(taken)["expires_at"] is None


@WAYS
def test_a_stale_claim_changes_nothing(desk: Desk, whole: bool) -> None:
    stale = desk.take(retry=5)
    assert desk.end(stale, Lost("worker lost"))
    (fresh,) = desk.claim(worker=OTHER)
    assert fresh.job.id == stale.job.id
    before, executions = desk.row(fresh), desk.executions(fresh)
    for outcome in (Succeeded("1"), failed(), Interrupted(True), TimedOut("t"), Aborted()):
        assert not end(desk, stale, outcome, whole=whole)
    assert desk.row(fresh) == before
    assert desk.executions(fresh) == executions
    assert desk.end(fresh, worker=OTHER)
    assert desk.status(fresh) == "complete"


@WAYS
def test_the_claim_is_the_fence_even_when_the_same_worker_claims_again(desk: Desk, whole: bool) -> None:
    stale = desk.take()
    assert desk.close(stale, Interrupted())
    (fresh,) = desk.claim()
    assert fresh.job.attempts == stale.job.attempts
    assert not end(desk, stale, failed("stale"), whole=whole)
    assert desk.status(fresh) == "active"


@WAYS
def test_closing_twice_is_harmless(desk: Desk, whole: bool) -> None:
    taken = desk.take(retry=3)
    assert end(desk, taken, Succeeded("1"), whole=whole)
    before = desk.row(taken)
    assert not end(desk, taken, Succeeded("2"), whole=whole)
    assert not end(desk, taken, failed(), whole=whole)
    assert desk.row(taken) == before
    assert desk.executions(taken) == [(1, "complete")]


def test_a_deleted_job_is_not_brought_back_by_its_worker(desk: Desk) -> None:
    taken = desk.take(on_success="app.yes", repeat=None)
    desk.run(manage.delete([taken.job.id]))
    assert not desk.end(taken)
    assert desk.close(taken) == []
    assert desk.count("jobs") == desk.count("executions") == 0


def test_a_batch_closes_each_job_by_itself(desk: Desk) -> None:
    jobs = [desk.take(n, retry=Retry(2, intervals=5)) for n in range(4)]
    stale = desk.take(9)
    assert desk.close(stale, Interrupted())
    outcomes: list[Outcome] = [Succeeded("1"), failed(), Interrupted(), TimedOut("late")]
    entries = [entry(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True)] + [entry(stale)]
    closed = desk.run(running.close(entries, WORKER, whole=False))
    assert sorted(closed) == sorted(job.job.id for job in jobs)
    assert desk.statuses(*jobs) == ["complete", "scheduled", "queued", "scheduled"]


def test_a_job_somebody_aborts_is_left_to_the_whole_settle(desk: Desk) -> None:
    desk.live()
    taken = desk.take(on_success="app.yes", on_stopped="app.stopped")
    assert desk.run(manage.abort(taken.job.id))
    assert desk.status(taken) == "aborting"
    assert desk.close(taken) == []
    assert desk.end(taken, Succeeded("1"))
    row = desk.row(taken)
    assert (row["status"], row["error"], row["result"]) == ("aborted", "aborted", None)
    assert desk.executions(taken) == [(1, "aborted")]
    assert desk.sql("select function from {jobs} where callback_of = %s", taken.job.id) == [("app.stopped",)]


def test_a_job_with_dependents_is_left_to_the_whole_settle_unless_it_goes_on(desk: Desk) -> None:
    taken = desk.take(retry=2)
    child = desk.put(depends_on=taken.job.id)
    assert desk.close(taken, Succeeded()) == []
    assert desk.close(taken, failed()) == [taken.job.id]
    (again,) = desk.claim()
    assert desk.end(again)
    assert desk.statuses(taken, child) == ["complete", "queued"]
    (late,) = desk.claim()
    assert desk.close(late) == [child]


def test_an_outcome_that_cannot_be_written_leaves_the_job_as_it_was(desk: Desk) -> None:
    taken = desk.take()
    with pytest.raises(TypeError):
        desk.end(taken, Succeeded('"\\u0000"'))
    assert desk.status(taken) == "active"
    assert desk.executions(taken) == []


def test_the_end_tells_those_who_wait_for_it(desk: Desk) -> None:
    taken, other = desk.take(1), desk.take(2)
    ends = desk.run(await_ends([taken.job.id, other.job.id]))
    assert sorted(ends) == sorted([(taken.job.id, "active"), (other.job.id, "active")])
    desk.looking.listen(DONE)
    desk.run(running.close([entry(taken), entry(other)], WORKER, whole=False))
    (told,) = desk.looking.heard()
    assert sorted(told.split(",")) == sorted([taken.job.id, other.job.id])
    assert sorted(desk.run(queries.ends([taken.job.id, other.job.id]))) == sorted(
        [(taken.job.id, "complete"), (other.job.id, "complete")]
    )


def test_five_hundred_awaited_ends_are_told_in_messages_that_fit(desk: Desk) -> None:
    orders = [new(n) for n in range(500)]
    desk.send(orders)
    taken = desk.claim(500)
    desk.run(await_ends([one.job.id for one in taken]))
    desk.looking.listen(DONE)
    assert len(desk.run(running.close([entry(one) for one in taken], WORKER, whole=False))) == 500
    told = desk.looking.heard()
    assert sorted(",".join(told).split(",")) == sorted(one.job.id for one in taken)


def test_touch_and_progress_are_fenced_by_the_claim(desk: Desk) -> None:
    taken = desk.take(heartbeat=5)
    desk.ago(taken, 60, "touched_at")
    before = desk.row(taken)["touched_at"]
    job_id, claim = taken.job.id, taken.claim
    assert desk.run(running.touch([(job_id, claim), (job_id, claim + 1)])) == [job_id]
    assert desk.row(taken)["touched_at"] > before
    assert desk.run(running.touch([(job_id, claim - 1)])) == []
    assert desk.run(running.progress(job_id, claim, '{"fraction": 0.5}')) == [job_id]
    assert desk.row(taken)["progress"] == {"fraction": 0.5}
    assert desk.run(running.progress(job_id, claim + 1, "{}")) == []
    desk.end(taken)
    assert desk.run(running.touch([(job_id, claim)])) == []
    assert desk.run(running.progress(job_id, claim, "{}")) == []


def test_a_turn_closes_retires_and_claims_in_one_commit(desk: Desk) -> None:
    first, second = desk.take(1), desk.put(2)
    answer = desk.run(turn(Turn(
        WORKER, ["default"], 5, closing=[entry(first)], retiring=[first.claim], parents=[first.job.id], keys=["g"],
        dozing=True,
    )))  # fmt: skip
    assert answer.closed == [first.job.id]
    assert answer.claim is not None
    assert [one.job.id for one in answer.claim.jobs] == [second]
    assert (answer.late, answer.readied) == ([], 0)
    assert desk.statuses(first, second) == ["complete", "active"]
    assert desk.count("claims") == desk.count("idle") == 1
    times = desk.sql("select xmin::text from {jobs}")
    assert len(set(times)) == 1


def test_a_turn_one_part_of_which_fails_changes_nothing(desk: Desk) -> None:
    taken, waiting = desk.take(1), desk.put(2)
    bad = (report(taken), Verdict(JobStatus.COMPLETE, result="not json"))
    with pytest.raises(TypeError):
        desk.run(turn(Turn(WORKER, ["default"], 5, closing=[bad], dozing=True)))
    with pytest.raises(TypeError):
        desk.run(turn(Turn(WORKER, ["default"], 5, retiring=[taken.claim], closing=[bad], dozing=True)))
    assert desk.statuses(taken, waiting) == ["active", "queued"]
    assert (desk.count("claims"), desk.count("idle")) == (1, 0)


def test_an_empty_turn_asks_nothing(desk: Desk) -> None:
    answer = desk.run(turn(Turn(WORKER, ["default"])))
    assert (answer.closed, answer.claim, answer.late, answer.readied) == ([], None, [], 0)


def test_strays_are_jobs_of_ours_that_we_do_not_know(desk: Desk) -> None:
    known, lost = desk.take(1), desk.take(2)
    assert desk.run(running.stray(WORKER, [known.claim])) == [(lost.job.id, lost.claim)]
    assert desk.run(running.stray(OTHER, [])) == []
    desk.end(lost)
    assert desk.run(running.stray(WORKER, [known.claim])) == []


def test_executions_are_listed_in_the_order_they_ended_the_running_one_last(desk: Desk) -> None:
    desk.sql("alter table {executions} alter column id restart with 8")
    taken = desk.take(retry=9)
    for _ in range(4):
        desk.close(taken, failed())
        (taken,) = desk.claim()
    listed = desk.run(queries.executions(taken.job.id, str))
    assert [one.attempt for one in listed] == [1, 2, 3, 4, 5]
    assert [one.status for one in listed] == ["failed"] * 4 + ["running"]
    assert listed[-1].duration is None


def test_aborts_of_running_jobs_are_found(desk: Desk) -> None:
    desk.run(workers.register(WORKER, "w", ["default"], {}, 25))
    one, two = desk.take(1), desk.take(2)
    desk.run(manage.abort(one.job.id))
    assert desk.run(running.aborting([one.job.id, two.job.id])) == [one.job.id]


@pytest.mark.parametrize("result", [None, "1"], ids=["without results", "with results"])
def test_a_batch_of_nothing_but_successes_has_the_same_fence(desk: Desk, result: str | None) -> None:
    desk.live()
    plain, stale, aborting, parent = (desk.take(n) for n in range(4))
    child = desk.put(depends_on=parent.job.id)
    assert desk.close(stale, Interrupted())
    (fresh,) = desk.claim()
    desk.run(manage.abort(aborting.job.id))
    batch = [entry(one, Succeeded(result)) for one in (plain, stale, aborting, parent)]
    assert desk.run(running.close(batch, WORKER, whole=False)) == [plain.job.id]
    assert desk.run(running.close(batch, WORKER, whole=False)) == []
    assert desk.statuses(plain, fresh, aborting, parent, child) == [
        "complete", "active", "aborting", "active", "waiting",
    ]  # fmt: skip
    assert desk.executions(plain) == [(1, "complete")]
    assert desk.sql("select distinct job_id::text from {executions}") == [(plain.job.id,)]
