"""What follows from an end: callbacks, repetitions, deletion of the row; all of it fenced, all of it in one commit."""

import json
from datetime import timedelta

import pytest

from pgwerk._core.operations import manage
from pgwerk._core.operations import settle as op
from pgwerk._core.options import Callback, Dependency, Group, Repeat, Retry
from pgwerk._core.outcome import Aborted, Expired, Failed, Interrupted, Lost, Outcome, Overdue, Succeeded
from pgwerk._core.statements import admin, queries
from tests.database.builders import WORKER, Desk, args_of, failed, report

ALL = {"on_success": "app.yes", "on_failure": "app.no", "on_stopped": Callback("app.stopped", timeout=7)}


def callbacks(desk: Desk, job_id: str) -> list[tuple[str, str]]:
    return desk.sql("select function, callback_kind from {jobs} where callback_of = %s", job_id)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Succeeded("1"), [("app.yes", "success")]),
        (failed(), [("app.no", "failure")]),
        (Overdue("worker lost"), [("app.no", "failure")]),
        (Lost("worker lost", begun=True), []),
        (Aborted(), [("app.stopped", "stopped")]),
        (Interrupted(started=True), []),
    ],
)
def test_each_end_has_its_callback(desk: Desk, outcome: Outcome, expected: list[tuple[str, str]]) -> None:
    taken = desk.take(1, **ALL)
    assert desk.end(taken, outcome)
    assert callbacks(desk, taken.job.id) == expected


def test_a_failure_that_is_retried_has_no_callback_yet(desk: Desk) -> None:
    taken = desk.take(retry=2, **ALL)
    desk.end(taken, failed())
    assert callbacks(desk, taken.job.id) == []
    (again,) = desk.claim()
    desk.end(again, failed())
    assert callbacks(desk, taken.job.id) == [("app.no", "failure")]


def test_a_callback_is_a_job_on_the_same_queue_with_its_own_timeout(desk: Desk) -> None:
    taken = desk.take(queue="mail", priority=4, meta={"a": 1}, group="g", **ALL)
    desk.end(taken, Aborted())
    (callback,) = desk.claim(5, "mail")
    assert (callback.job.function, callback.job.timeout_secs, callback.job.priority) == ("app.stopped", 7.0, 4)
    assert (callback.job.callback_of, callback.job.callback_kind) == (taken.job.id, "stopped")
    assert (callback.job.group_key, callback.job.meta, callback.plain) == (None, None, False)
    assert callback.job.max_attempts == op.CALLBACK_ATTEMPTS


def test_a_callback_that_raises_ends_and_one_whose_worker_dies_runs_again(desk: Desk) -> None:
    taken = desk.take(on_success="app.yes")
    desk.end(taken)
    (callback,) = desk.claim()
    desk.end(callback, Lost("worker lost"))
    (again,) = desk.claim()
    assert again.job.id == callback.job.id
    desk.end(again, Failed("x", ("builtins.ValueError", "builtins.Exception", "builtins.BaseException")))
    assert desk.status(callback) == "failed"


def test_a_stale_worker_settles_nothing(desk: Desk) -> None:
    stale = desk.take(retry=3, key="k", repeat=Repeat(2), failure_mode="delete", group="g", **ALL)
    child = desk.put(depends_on=stale.job.id)
    desk.end(stale, Lost("worker lost"))
    before = desk.count("jobs")
    for outcome in (Succeeded("1"), failed(), Aborted()):
        assert not desk.end(stale, outcome)
    assert desk.count("jobs") == before
    assert desk.statuses(stale, child) == ["queued", "waiting"]


@pytest.mark.postgres
def test_everything_that_follows_is_in_one_transaction(desk: Desk) -> None:
    taken = desk.take(1, repeat=Repeat(1), key="k", group="g", **ALL)
    child = desk.put(depends_on=taken.job.id)
    member = desk.put(group="g")
    assert desk.claim() == []
    peer = desk.run.peer()
    peer.begin()
    assert peer.run(op.settle([report(taken)], WORKER))
    assert desk.statuses(taken, child, member) == ["active", "waiting", "queued"]
    assert desk.row(member)["blocked"]
    peer.rollback()
    assert desk.statuses(taken, child) == ["active", "waiting"]
    assert (desk.count("jobs"), desk.count("permits"), desk.executions(taken)) == (3, 1, [])
    assert desk.end(taken)
    assert desk.statuses(taken, child) == ["complete", "queued"]
    assert not desk.row(member)["blocked"]
    assert desk.count("jobs") == 5


# Repetitions ----------------------------------------------------------------------


def test_a_repetition_is_a_new_job_with_all_options(desk: Desk) -> None:
    options = {
        "queue": "q", "priority": 3, "retry": Retry(3, [5, 6], (KeyError,)), "meta": {"a": 1}, "timeout": 4,
        "heartbeat": 5, "group": Group("g", 2), "ttl": 100, "result_ttl": 60, "failure_ttl": 70,
        "failure_mode": "delete", "schedule_name": "s", "repeat": Repeat(2, 30), **ALL,
    }  # fmt: skip
    taken = desk.take(1, 2, **options)
    before = desk.row(taken)
    desk.end(taken)
    (next_id,) = desk.sql("select id::text from {jobs} where status = 'scheduled'")[0]
    after = desk.row(next_id)
    own = {
        "id", "status", "attempts", "claim_id", "worker_id", "started_at", "touched_at", "scheduled_at", "enqueued_at",
        "expires_at", "repeat_remaining", "lane",
    }  # fmt: skip
    assert {k: v for k, v in after.items() if k not in own} == {k: v for k, v in before.items() if k not in own}
    assert (after["repeat_remaining"], after["attempts"], args_of(after)) == (1, 0, [1, 2])
    assert (after["scheduled_at"] - desk.now()).total_seconds() == pytest.approx(30, abs=2)
    assert after["expires_at"] - after["scheduled_at"] == timedelta(seconds=100)


def test_the_key_moves_to_the_repetition(desk: Desk) -> None:
    taken = desk.take(1, key="k", repeat=Repeat(1))
    desk.end(taken)
    assert desk.row(taken)["key"] is None
    (again,) = desk.claim()
    assert again.job.key == "k"
    desk.end(again)
    assert desk.row(again)["key"] == "k"
    assert desk.claim() == []
    found = desk.run(queries.get_by_key("k", json.loads))
    assert found is not None
    assert found.id == again.job.id


def test_repetitions_follow_their_intervals_and_then_end(desk: Desk) -> None:
    taken = desk.take(repeat=Repeat(3, intervals=[10, 20]))
    for expected in (10, 20, 20):
        desk.end(taken)
        ((next_id, left),) = desk.sql(
            "select id::text, extract(epoch from scheduled_at - now())::float from {jobs} where status = 'scheduled'"
        )
        assert left == pytest.approx(expected, abs=2)
        desk.ago(next_id, 60, "scheduled_at")
        desk.perform_promote()
        (taken,) = desk.claim()
    desk.end(taken)
    assert desk.sql("select 1 from {jobs} where status <> 'complete'") == []


def test_a_failure_or_an_abort_ends_the_repetitions(desk: Desk) -> None:
    for outcome in (failed(), Aborted()):
        taken = desk.take(repeat=Repeat(5))
        desk.end(taken, outcome)
    assert desk.sql("select 1 from {jobs} where status = 'queued'") == []


def test_a_repetition_without_delay_can_be_claimed_at_once(desk: Desk) -> None:
    taken = desk.take(repeat=Repeat(1))
    desk.end(taken)
    assert len(desk.claim()) == 1


# Rows that go ---------------------------------------------------------------------


def test_failure_mode_delete_takes_the_row_after_its_last_failure(desk: Desk) -> None:
    taken = desk.take(failure_mode="delete", retry=2)
    child = desk.put(depends_on=taken.job.id)
    tolerant = desk.put(depends_on=Dependency(taken.job.id, allow_failure=True))
    desk.end(taken, failed())
    assert desk.status(taken) == "queued"
    (again,) = desk.claim()
    desk.end(again, failed())
    assert desk.statuses(taken, child, tolerant) == [None, "failed", "queued"]
    assert desk.count("executions") == 0
    done = desk.take(failure_mode="delete", priority=9)
    desk.end(done)
    assert desk.status(done) == "complete"


def test_a_deleted_failure_stays_until_its_callback_has_ended(desk: Desk) -> None:
    taken = desk.take(failure_mode="delete", on_failure="app.no")
    desk.end(taken, failed())
    assert desk.status(taken) == "failed"
    (callback,) = desk.claim()
    desk.end(callback)
    assert desk.statuses(taken, callback) == [None, "complete"]


def test_a_deleted_failure_goes_also_when_its_callback_is_cancelled(desk: Desk) -> None:
    taken = desk.take(failure_mode="delete", on_failure="app.no")
    desk.end(taken, failed())
    (callback,) = desk.sql("select id::text from {jobs} where callback_of is not null")[0]
    assert desk.run(op.end_unstarted([callback], Aborted()))
    assert desk.status(taken) is None


def test_a_job_queued_again_before_its_callback_ended_is_kept(desk: Desk) -> None:
    taken = desk.take(failure_mode="delete", on_failure="app.no")
    desk.end(taken, failed())
    assert desk.run(admin.requeue([taken.job.id])) == [taken.job.id]
    callback = next(one for one in desk.claim() if one.job.callback_of)
    desk.end(callback)
    assert desk.status(taken) is not None


def test_unstarted_jobs_end_with_callbacks_and_no_execution(desk: Desk) -> None:
    jobs = [desk.put(**ALL), desk.put(delay=60, **ALL)]
    jobs.append(desk.put(depends_on=jobs[1], **ALL))
    assert sorted(desk.run(op.end_unstarted(jobs[:1], Expired()))) == jobs[:1]
    assert desk.row(jobs[0])["error"] == "expired"
    assert desk.run(op.end_unstarted(jobs[:1], Expired())) == []
    assert desk.run(op.end_unstarted([jobs[2]], Aborted("aborted: cancelled"))) == [jobs[2]]
    assert callbacks(desk, jobs[0]) == callbacks(desk, jobs[2]) == [("app.stopped", "stopped")]
    assert desk.count("executions") == 0


def test_the_sweep_deletes_ended_rows_only_after_their_callbacks(desk: Desk) -> None:
    taken = desk.take(result_ttl=0, on_success="app.yes")
    desk.end(taken)
    assert desk.sweep().deleted == 0
    (callback,) = desk.claim()
    desk.end(callback)
    assert desk.sweep().deleted == 1
    assert desk.statuses(taken, callback) == [None, "complete"]


def test_many_ends_in_one_settle_each_have_their_own_consequences(desk: Desk) -> None:
    taken = [desk.take(n, key=f"k{n}", repeat=Repeat(1), on_success="app.yes", on_failure="app.no") for n in range(4)]
    outcomes: list[Outcome] = [Succeeded("1"), failed(), Succeeded("2"), Interrupted()]
    verdicts = desk.run(op.settle([report(t, o) for t, o in zip(taken, outcomes, strict=True)], WORKER))
    assert len(verdicts) == 4
    assert desk.statuses(*taken) == ["complete", "failed", "complete", "queued"]
    assert sorted(desk.sql("select key from {jobs} where status = 'queued' and key is not null")) == [
        ("k0",),
        ("k2",),
        ("k3",),
    ]
    assert desk.one("select count(*) from {jobs} where callback_of is not null") == 3


@pytest.mark.postgres
def test_a_job_that_ends_while_it_is_deleted_is_deleted(desk: Desk) -> None:
    taken = desk.take(on_success="app.yes")
    peer, other = desk.run.peer(), desk.run.peer()
    peer.begin()
    assert peer.run(manage.delete([taken.job.id])) == [taken.job.id]
    other.start(op.settle([report(taken)], WORKER))
    assert other.waits
    peer.commit()
    assert other.finish() == {}
    assert desk.count("jobs") == 0


def test_odd_policies_of_a_foreign_producer_do_not_stop_the_settle(desk: Desk) -> None:
    desk.sql("""
        insert into {jobs} (function, max_attempts, retry_intervals, no_retry, repeat_remaining, repeat_intervals)
        values ('app.work', 3, '5', '"x"', 2, '{"a": 1}'), ('app.work', 3, '["x", null]', '[1]', 2, '["soon"]'),
               ('app.work', 3, '[]', '[]', 2, '[]'), ('app.work', 3, '[-5, 1e300]', null, -1, null)
    """)
    for taken in desk.claim():
        desk.end(taken, failed())
    desk.sql("update {jobs} set status = 'queued', scheduled_at = now()")
    for taken in desk.claim():
        assert desk.end(taken)
    assert desk.sql("select distinct status from {jobs} where completed_at is not null") == [("complete",)]
