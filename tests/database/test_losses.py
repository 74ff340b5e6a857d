"""What a lost worker costs its jobs: nothing before they began, no attempt after, and not for ever."""

import pytest

from pgwerk import Repeat, Retry
from pgwerk._core.claim import Claimed
from pgwerk._core.operations import manage
from pgwerk._core.operations.recover import Begun
from pgwerk._core.outcome import Interrupted, Lost, Overdue, Succeeded
from pgwerk._core.procedures import bulk, sweep
from pgwerk._core.statements import admin, queries, running
from tests.database.builders import LIVE, OTHER, WORKER, Desk, failed, new

WAYS = pytest.mark.parametrize("whole", [False, True], ids=["in a batch", "in a settle"])


def lose(desk: Desk, begun: Begun | None = None, max_lost: int = 3) -> list[str]:
    """Let the worker die."""
    return desk.run.perform(sweep.recover_dead(WORKER, "its process was killed by SIGKILL", begun, max_lost))


def begun(*taken: Claimed, overdue: bool = False) -> Begun:
    return {(one.id, one.claim): overdue for one in taken}


def columns(desk: Desk, taken: Claimed | str, *names: str) -> tuple[object, ...]:
    row = desk.row(taken)
    return tuple(row[name] for name in names)


def test_of_a_batch_those_are_charged_a_loss_that_had_begun(desk: Desk) -> None:
    desk.live()
    desk.send([new(n) for n in range(6)])
    taken = desk.claim(6)
    desk.end(taken[0])
    assert sorted(lose(desk, begun(*taken[:3]))) == sorted(one.id for one in taken[1:])
    names = ("status", "attempts", "lost", "watched", "error")
    reason = "worker lost: its process was killed by SIGKILL"
    assert columns(desk, taken[0], "status", "attempts", "lost") == ("complete", 1, None)
    assert [columns(desk, one, *names) for one in taken[1:3]] == [("queued", 0, 1, 0, reason)] * 2
    assert [columns(desk, one, *names) for one in taken[3:]] == [("queued", 0, None, None, None)] * 3
    assert [desk.executions(one) for one in taken[1:]] == [[(1, "failed")]] * 2 + [[]] * 3
    assert [one.watched for one in desk.claim(6)] == [True, True, False, False, False]


def test_what_had_begun_under_an_earlier_claim_had_not_under_this_one(desk: Desk) -> None:
    desk.live()
    earlier = desk.take()
    desk.end(earlier, Interrupted(started=True))
    (again,) = desk.claim()
    lose(desk, begun(earlier))
    assert columns(desk, again, "status", "attempts", "lost") == ("queued", 0, None)


def test_a_job_past_its_own_timeout_when_its_worker_died_is_charged(desk: Desk) -> None:
    desk.live()
    taken = desk.take(timeout=1)
    lose(desk, begun(taken, overdue=True))
    assert columns(desk, taken, "status", "attempts", "lost") == ("failed", 1, None)


def test_a_job_with_a_heartbeat_that_never_began_is_not_charged_when_nobody_renews_it(desk: Desk) -> None:
    desk.live()
    desk.send([new(n, heartbeat=5) for n in range(2)])
    began, waited = desk.claim(2)
    assert began.watched
    # Another worker would have written it down; this one died before.
    assert desk.run(running.begin([(began.id, began.claim)])) == [began.id]
    desk.sql("update {jobs} set watched = 0 where id = %s", waited.id)
    for one in (began, waited):
        desk.ago(one, 6, "touched_at")
    assert sorted(desk.run.perform(sweep.recover(LIVE)).recovered) == sorted([began.id, waited.id])
    assert columns(desk, began, "status", "attempts") == ("failed", 1)
    assert columns(desk, waited, "status", "attempts") == ("queued", 0)


def test_a_job_that_is_lost_at_most_never_runs_twice(desk: Desk) -> None:
    desk.live()
    taken = desk.take(retry=Retry(1, lost=0))
    assert taken.watched
    assert lose(desk) == [taken.id], "nobody wrote that it began"
    (again,) = desk.claim()
    desk.live()
    assert desk.run(running.begin([(again.id, again.claim)])) == [again.id]
    lose(desk)
    assert columns(desk, again, "status", "attempts", "lost") == ("failed", 1, 1)
    assert desk.row(again)["error"].endswith("it was lost once, and max_lost is 0")


@pytest.mark.parametrize("outcome", [Interrupted(started=True), Interrupted(started=True, blame="x"), Lost("x", True)])
@WAYS
def test_a_job_that_is_to_run_at_most_once_does_not_run_again_after_a_shutdown(
    desk: Desk, outcome: Interrupted | Lost, whole: bool
) -> None:
    taken = desk.take(retry=Retry(1, lost=0))
    assert desk.close(taken, outcome, whole=whole)
    assert columns(desk, taken, "status", "attempts") == ("failed", 1)


def test_the_beginning_is_written_under_the_claim_that_has_the_job(desk: Desk) -> None:
    desk.send([new(n) for n in range(3)])
    kept, lost, aborted = desk.claim(3)
    desk.end(lost, Lost("x", begun=False))
    (again,) = desk.claim(worker=OTHER)
    desk.live()
    desk.run(admin.start_abort(aborted.id))
    wanted = [(one.id, one.claim) for one in (kept, lost, aborted)]
    assert desk.run(running.begin(wanted)) == [kept.id]
    assert columns(desk, kept, "watched") == (kept.claim,)
    assert columns(desk, again, "watched") == (None,)


def test_the_limit_of_the_installation_holds_where_a_job_has_none(desk: Desk) -> None:
    desk.live()
    desk.send([new(0), new(1, retry=Retry(1, lost=2))])
    default, own = desk.claim(2)
    lose(desk, begun(default, own), max_lost=0)
    assert desk.statuses(default, own) == ["failed", "queued"]


@pytest.mark.parametrize(
    "values", ["2147483647, null, null", "-5, null, null", "null, 2147483647, null", "null, -2147483648, 5", "0, 0, 0"]
)
def test_whatever_foreign_rows_say_recovery_goes_on(desk: Desk, values: str) -> None:
    desk.sql(f"insert into {{jobs}} (function, lost, max_lost, interrupted) values ('f', {values})")
    innocent = desk.put()
    desk.sql("update {jobs} set interrupted = 2147483647")
    for outcome in (Interrupted(started=True), Lost("x", begun=True), Lost("x"), Overdue("x")):
        desk.live()
        for one in desk.claim(10):
            if one.id != innocent:
                desk.end(one, outcome)
        lose(desk)
    assert desk.status(innocent) == "queued"


@WAYS
def test_losses_are_remembered_through_give_backs_failures_and_interruptions(desk: Desk, whole: bool) -> None:
    taken = desk.take(retry=Retry(3))
    for outcome in (Lost("x", begun=True), Interrupted(), Interrupted(started=True), failed(), Lost("y", begun=True)):
        assert desk.close(taken, outcome, whole=whole)
        (taken,) = desk.claim()
    assert columns(desk, taken, "lost", "interrupted", "attempts") == (2, 1, 2)
    assert desk.end(taken, Succeeded())
    assert columns(desk, taken, "status", "lost", "attempts", "error") == ("complete", 2, 2, None)
    job = desk.run(queries.get(taken.id, str))
    assert job is not None
    assert (job.lost, job.interrupted) == (2, 1)


def test_a_lost_job_keeps_its_place_and_each_loss_is_an_execution_with_its_reason(desk: Desk) -> None:
    taken = desk.take(retry=2)
    place = desk.row(taken)["scheduled_at"]
    desk.end(taken, Lost("worker lost: one", begun=True))
    assert desk.row(taken)["scheduled_at"] == place
    (taken,) = desk.claim()
    desk.end(taken, Lost("worker lost: two", begun=True))
    found = desk.run(queries.executions(taken.id, str))
    assert [(one.attempt, one.status, one.error) for one in found] == [
        (1, "failed", "worker lost: one"),
        (1, "failed", "worker lost: two"),
    ]


def test_a_job_that_was_lost_does_not_expire_when_it_is_given_back(desk: Desk) -> None:
    taken = desk.take(ttl=60)
    desk.end(taken, Lost("x", begun=True))
    assert columns(desk, taken, "expires_at") == (None,)
    (taken,) = desk.claim()
    desk.close(taken, Interrupted())
    assert columns(desk, taken, "expires_at") == (None,)


def test_jobs_in_groups_are_released_when_they_are_lost(desk: Desk) -> None:
    desk.live()
    first, second = desk.put(1, group="g"), desk.put(2, group="g")
    (taken,) = desk.claim()
    lose(desk, begun(taken))
    assert desk.count("permits") == 0
    desk.live()
    assert {one.id for one in desk.claim()} <= {first, second}


# Queued again by hand -------------------------------------------------------------


def run_out(desk: Desk, job_id: str) -> int:
    """Let it fail until it has no attempts left; how many those were."""
    count = 0
    while desk.status(job_id) == "queued":
        (taken,) = desk.claim()
        desk.end(taken, failed())
        count += 1
    return count


def test_a_job_that_is_queued_again_has_as_many_attempts_as_it_had(desk: Desk) -> None:
    job_id = desk.put(retry=Retry(3))
    counts = []
    for way in ("one", "bulk", "one", "bulk", "one"):
        counts.append(run_out(desk, job_id))
        if way == "one":
            assert desk.run(admin.requeue([job_id])) == [job_id]
        else:
            assert desk.run.perform(bulk.requeue_all(None, None)) == 1
    assert counts == [3] * 5
    assert columns(desk, job_id, "attempts", "max_attempts", "budget") == (15, 18, 3)


def test_a_job_that_is_queued_again_before_it_used_its_attempts_has_as_many_again(desk: Desk) -> None:
    job_id = desk.put(retry=Retry(3))
    (taken,) = desk.claim()
    desk.end(taken, failed())
    desk.run(manage.abort(job_id))
    desk.run(admin.requeue([job_id]))
    assert run_out(desk, job_id) == 3


def test_a_repetition_has_the_attempts_that_the_first_had(desk: Desk) -> None:
    job_id = desk.put(retry=Retry(2, lost=7), repeat=Repeat(1))
    run_out(desk, job_id)
    desk.run(admin.requeue([job_id]))
    (taken,) = desk.claim()
    desk.end(taken)
    assert desk.sql("select max_attempts, max_lost, lost, budget from {jobs} where id <> %s", job_id) == [
        (2, 7, None, None)
    ]


def test_attempts_of_foreign_rows_do_not_stop_a_requeue(desk: Desk) -> None:
    desk.sql("insert into {jobs} (function, status, attempts, max_attempts) "
             "values ('f', 'failed', 1000000000, 1000000000)")  # fmt: skip
    assert desk.run.perform(bulk.requeue_all(None, None)) == 1


def test_losses_and_interruptions_begin_anew_when_a_job_is_queued_again(desk: Desk) -> None:
    taken = desk.take(retry=Retry(1, lost=1))
    for _ in range(2):
        desk.end(taken, Lost("x", begun=True))
        taken = (desk.claim() or [taken])[0]
    assert columns(desk, taken, "status", "lost") == ("failed", 2)
    desk.run(admin.requeue([taken.id]))
    assert columns(desk, taken, "lost", "interrupted") == (None, None)
    (taken,) = desk.claim()
    assert taken.watched
    desk.end(taken, Lost("x", begun=True))
    assert desk.status(taken) == "queued"
