"""Jobs and queues by hand: abort, cancel, queue again, change, delete, purge, pause; and looking at them."""

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from pgwerk._core.operations import manage
from pgwerk._core.operations import settle as op
from pgwerk._core.operations.wait import await_ends
from pgwerk._core.outcome import Aborted, Interrupted
from pgwerk._core.procedures import bulk
from pgwerk._core.statements import admin, claims, queries, schema, workers
from pgwerk._core.statements.queries import Filter
from pgwerk._memory.messages import DONE, WAKE
from tests.database.builders import OTHER, WORKER, Desk, failed, ids, new, report

UNKNOWN = str(uuid4())


def change(desk: Desk, job_id: str, **what: object) -> bool:
    values = {"at": None, "delay": None, "priority": None, "meta": None, **what}
    return desk.run(manage.update(job_id, **values))  # type: ignore[arg-type]


# Abort ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "scheduled", "waiting"])
def test_a_job_that_has_not_started_is_aborted_at_once(desk: Desk, state: str) -> None:
    parent = desk.put()
    options: dict[str, object] = {"scheduled": {"delay": 60}, "waiting": {"depends_on": parent}}.get(state, {})  # type: ignore[assignment]
    job_id = desk.put(on_stopped="app.stopped", **options)
    assert desk.status(job_id) == state
    assert desk.run(manage.abort(job_id))
    assert (desk.status(job_id), desk.row(job_id)["error"]) == ("aborted", "aborted")
    assert desk.one("select function from {jobs} where callback_of = %s", job_id) == "app.stopped"


def test_an_active_job_of_a_living_worker_is_asked_to_stop(desk: Desk) -> None:
    desk.live()
    taken = desk.take()
    desk.looking.listen(WAKE)
    assert desk.run(manage.abort(taken.job.id))
    assert desk.status(taken) == "aborting"
    assert desk.looking.heard() == [f"a{WORKER}"]
    assert desk.run(manage.abort(taken.job.id))
    assert desk.end(taken, Interrupted(started=True))
    assert desk.status(taken) == "aborted"
    assert not desk.run(manage.abort(taken.job.id))


@pytest.mark.parametrize("worker", ["never registered", "expired", "stopped"])
def test_an_active_job_that_nobody_runs_is_aborted_at_once(desk: Desk, worker: str) -> None:
    if worker != "never registered":
        desk.live(seconds=-1 if worker == "expired" else 60)
    taken = desk.take(group="g", on_stopped="app.stopped")
    child = desk.put(depends_on=taken.job.id)
    if worker == "stopped":
        desk.run(workers.leave(WORKER))
    assert desk.run(manage.abort(taken.job.id))
    assert desk.statuses(taken, child) == ["aborted", "failed"]
    assert (desk.executions(taken), desk.count("permits")) == ([(1, "aborted")], 0)
    assert not desk.end(taken)


def test_an_aborting_job_whose_worker_died_is_aborted_by_asking_again(desk: Desk) -> None:
    desk.live()
    taken = desk.take()
    desk.run(manage.abort(taken.job.id))
    desk.sql("update {worker} set expires_at = now() - interval '1 second'")
    assert desk.run(manage.abort(taken.job.id))
    assert desk.status(taken) == "aborted"


def test_an_active_row_that_nobody_claimed_can_be_aborted(desk: Desk) -> None:
    job_id = desk.put()
    desk.sql("update {jobs} set status = 'active'")
    assert desk.run(manage.abort(job_id))
    assert desk.status(job_id) == "aborted"


def test_aborting_an_ended_or_unknown_job_says_no(desk: Desk) -> None:
    taken = desk.take()
    desk.end(taken)
    assert not desk.run(manage.abort(taken.job.id))
    assert not desk.run(manage.abort(UNKNOWN))
    assert desk.status(taken) == "complete"


@pytest.mark.postgres
def test_an_abort_that_meets_the_settle_waits_and_finds_it_ended(desk: Desk) -> None:
    desk.live()
    taken = desk.take()
    settler, aborter = desk.run.peer(), desk.run.peer()
    settler.begin()
    settler.run(op.settle([report(taken)], WORKER))
    aborter.start(manage.abort(taken.job.id))
    assert aborter.waits
    settler.commit()
    assert aborter.finish() is False
    assert desk.status(taken) == "complete"


# Cancel ---------------------------------------------------------------------------


def test_cancelling_ends_only_what_has_not_started(desk: Desk) -> None:
    taken, waiting = desk.take(), desk.put()
    cancelled = desk.run(op.end_unstarted([taken.job.id, waiting, UNKNOWN], Aborted("aborted: cancelled")))
    assert cancelled == [waiting]
    assert desk.statuses(taken, waiting) == ["active", "aborted"]
    assert desk.run(op.end_unstarted([], Aborted())) == []


@pytest.mark.postgres
def test_a_claimed_job_cannot_be_cancelled_by_somebody_who_saw_it_queued(desk: Desk) -> None:
    job_id = desk.put()
    claimer, canceller = desk.run.peer(), desk.run.peer()
    claimer.begin()
    assert ids(desk.claim(by=claimer)) == [job_id]
    canceller.start(op.end_unstarted([job_id], Aborted()))
    assert canceller.waits
    claimer.commit()
    assert canceller.finish() == []
    assert desk.status(job_id) == "active"


def test_bulk_cancel_ends_all_of_a_queue(desk: Desk) -> None:
    desk.send([new(n, queue="a") for n in range(3)] + [new(queue="b"), new(queue="a", delay=60)])
    (taken,) = desk.claim(1, "a")
    assert desk.run.perform(bulk.cancel_all("a")) == 3
    assert desk.status(taken) == "active"
    assert desk.run.perform(bulk.cancel_all(None)) == 1
    assert desk.run.perform(bulk.cancel_all(None)) == 0


# Queue again ----------------------------------------------------------------------


def test_queueing_again_keeps_the_attempts_and_extends_the_budget(desk: Desk) -> None:
    taken = desk.take(retry=2, failure_ttl=60)
    desk.end(taken, failed("one"))
    desk.end(desk.claim()[0], failed("two"))
    assert desk.run(admin.requeue([taken.job.id])) == [taken.job.id]
    row = desk.row(taken)
    assert (row["status"], row["attempts"], row["max_attempts"], row["completed_at"]) == ("queued", 2, 4, None)
    assert row["expires_at"] is None
    desk.end(desk.claim()[0], failed("three"))
    assert desk.status(taken) == "queued"
    desk.end(desk.claim()[0], failed("four"))
    assert desk.status(taken) == "failed"
    assert [attempt for attempt, _ in desk.executions(taken)] == [1, 2, 3, 4]


def test_only_failed_and_aborted_jobs_are_queued_again(desk: Desk) -> None:
    done, running, waiting, aborted = desk.take(1), desk.take(2), desk.put(3, delay=60), desk.put(4)
    desk.end(done)
    desk.run(op.end_unstarted([aborted], Aborted()))
    everything = [done.job.id, running.job.id, waiting, aborted, UNKNOWN]
    assert desk.run(admin.requeue(everything)) == [aborted]


def test_a_job_queued_again_gets_its_ttl_again(desk: Desk) -> None:
    job_id = desk.put(ttl=60)
    desk.run(op.end_unstarted([job_id], Aborted()))
    desk.run(admin.requeue([job_id]))
    assert (desk.row(job_id)["expires_at"] - desk.now()).total_seconds() == pytest.approx(60, abs=2)


def test_bulk_requeue_goes_by_queue_and_function(desk: Desk) -> None:
    desk.send([new(n, queue="a") for n in range(3)] + [new(queue="b")])
    desk.sql("update {jobs} set status = 'failed'")
    desk.sql("update {jobs} set function = 'app.other' where queue = 'b'")
    assert desk.run.perform(bulk.requeue_all("a", "app.other")) == 0
    assert desk.run.perform(bulk.requeue_all(None, "app.other")) == 1
    assert desk.run.perform(bulk.requeue_all("a", None)) == 3
    assert desk.run.perform(bulk.requeue_all(None, None)) == 0


# Change ---------------------------------------------------------------------------


def test_priority_and_time_of_a_job_that_has_not_started_can_change(desk: Desk) -> None:
    first, second = desk.put(1), desk.put(2)
    assert change(desk, second, priority=5)
    assert ids(desk.claim(1)) == [second]
    assert change(desk, first, delay=60)
    assert desk.status(first) == "scheduled"
    assert desk.claim() == []
    assert change(desk, first, at=datetime(2001, 1, 1, tzinfo=UTC))
    assert ids(desk.claim()) == [first]


def test_a_running_or_ended_job_changes_only_its_meta(desk: Desk) -> None:
    taken = desk.take()
    before = desk.row(taken)
    assert not change(desk, taken.job.id, priority=5)
    assert not change(desk, taken.job.id, delay=60)
    assert not change(desk, taken.job.id, delay=60, meta="{}")
    assert desk.row(taken) == before
    assert change(desk, taken.job.id, meta='{"a": 1}')
    desk.end(taken)
    assert change(desk, taken.job.id, meta='{"a": 2}')
    assert desk.row(taken)["meta"] == {"a": 2}
    assert not change(desk, UNKNOWN, meta="{}")


def test_the_ttl_of_a_job_moves_with_its_time(desk: Desk) -> None:
    job_id = desk.put(ttl=30)
    later = desk.now() + timedelta(hours=1)
    assert change(desk, job_id, at=later)
    assert desk.row(job_id)["expires_at"] == later + timedelta(seconds=30)
    assert change(desk, job_id, at=datetime(2001, 1, 1, tzinfo=UTC))
    assert desk.row(job_id)["expires_at"] > desk.now()
    assert ids(desk.claim()) == [job_id]


def test_the_delay_of_a_waiting_job_counts_from_its_release(desk: Desk) -> None:
    parent = desk.take()
    child = desk.put(depends_on=parent.job.id)
    assert change(desk, child, delay=60)
    assert desk.status(child) == "waiting"
    desk.end(parent)
    assert desk.status(child) == "scheduled"


# Delete and purge -----------------------------------------------------------------


def test_deleting_takes_everything_of_the_job_along(desk: Desk) -> None:
    taken = desk.take(1, group="g", retry=2)
    member = desk.put(2, group="g")
    desk.end(taken, failed())
    again = desk.run(claims.claim_one(taken.job.id, WORKER))
    assert again is not None
    assert desk.run(manage.delete([taken.job.id, UNKNOWN])) == [taken.job.id]
    assert desk.run(manage.delete([taken.job.id])) == []
    assert (desk.count("jobs"), desk.count("executions")) == (1, 0)
    assert not desk.row(member)["blocked"]


def test_deleting_tells_those_who_wait_for_the_end(desk: Desk) -> None:
    job_id = desk.put()
    desk.run(await_ends([job_id]))
    desk.looking.listen(DONE)
    desk.run(manage.delete([job_id]))
    assert desk.looking.heard() == [job_id]
    assert desk.run(queries.ends([job_id])) == []


def test_purging_goes_by_status_and_completion_time(desk: Desk) -> None:
    jobs = {name: desk.take(name) for name in ("old", "new", "failed")}
    for name, taken in jobs.items():
        desk.end(taken, failed() if name == "failed" else None)
    desk.ago(jobs["old"], 10 * 86400, "completed_at")
    desk.ago(jobs["failed"], 10 * 86400, "completed_at")
    running = desk.put()
    assert desk.run(admin.count_purgeable(["complete"], 86400 * 7)) == 1
    assert desk.run.perform(bulk.purge(["complete"], 86400 * 7)) == 1
    assert desk.statuses(*jobs.values(), running) == [None, "complete", "failed", "queued"]
    assert desk.run.perform(bulk.purge(["failed", "queued"], 0)) == 1
    assert desk.status(running) == "queued"


def test_purging_more_than_a_batch_takes_all(desk: Desk) -> None:
    desk.sql("insert into {jobs} (function, status, completed_at) "
             "select 'f', 'complete', now() - interval '2 days' from generate_series(1, 1203)")  # fmt: skip
    assert desk.run.perform(bulk.purge(["complete"], 86400)) == 1203
    assert desk.count("jobs") == 0


def test_truncating_empties_everything_but_the_version(desk: Desk) -> None:
    desk.live()
    desk.take(group="g")
    desk.run(schema.truncate_all())
    tables = ("jobs", "claims", "executions", "job_deps", "permits", "worker", "idle", "queues")
    assert [desk.count(table) for table in tables] == [0] * len(tables)
    assert desk.count("versions") >= 1


# Looking --------------------------------------------------------------------------


def listed(desk: Desk, limit: int = 50, offset: int = 0, **which: object) -> list[str]:
    return [job.id for job in desk.run(queries.list_jobs(Filter(**which), limit, offset, json.loads))]  # type: ignore[arg-type]


def test_jobs_are_listed_newest_first_in_pages(desk: Desk) -> None:
    jobs = [desk.put(n) for n in range(7)][::-1]
    assert listed(desk) == jobs
    assert listed(desk, limit=3) == jobs[:3]
    assert listed(desk, limit=3, before=jobs[2]) == jobs[3:6]
    assert listed(desk, limit=3, offset=6) == jobs[6:]
    assert listed(desk, limit=0) == []


def test_lists_are_narrowed_by_every_filter(desk: Desk) -> None:
    plain = desk.put(1)
    mail = desk.put(2, queue="mail", key="50%_off", meta={"customer": "Ann"}, schedule_name="nightly")
    taken = desk.take(3, priority=9, retry=3)
    scheduled = desk.put(4, delay=60)
    child = desk.put(5, depends_on=plain)
    assert listed(desk, queues=["mail"]) == [mail]
    assert listed(desk, statuses=["active"]) == [taken.job.id]
    assert listed(desk, statuses=["waiting"]) == [child]
    assert listed(desk, statuses=["scheduled"]) == [scheduled]
    assert listed(desk, statuses=["scheduled", "waiting"]) == [child, scheduled]
    assert listed(desk, functions=["app.none"]) == []
    assert listed(desk, worker_id=WORKER) == [taken.job.id]
    assert listed(desk, worker_id=OTHER) == []
    assert listed(desk, schedule_name="nightly") == [mail]
    assert listed(desk, search="ANN") == [mail]
    assert listed(desk, search="50%_off") == [mail]
    assert listed(desk, search="5%") == []
    assert listed(desk, search="50__off") == []
    assert listed(desk, search=mail[-12:]) == [mail]
    assert listed(desk, retried=True) == []
    assert len(listed(desk, retried=False)) == 5
    desk.end(taken, failed())
    assert desk.claim(1, "default")[0].job.attempts == 2
    assert listed(desk, retried=True) == [taken.job.id]
    desk.end(desk.take(6, priority=20), failed())
    assert len(listed(desk, statuses=["failed"])) == len(listed(desk, statuses=["failed", "aborted"])) == 1


def test_a_job_is_read_with_everything_its_row_has(desk: Desk) -> None:
    job_id = desk.put({"x": [1]}, key="k", meta={"a": 1}, timeout=5, group="g")
    job = desk.run(queries.get(job_id, json.loads))
    assert job is not None
    assert (
        job == desk.run(queries.get_by_key("k", json.loads)) == desk.run(queries.get_many([job_id], json.loads))[job_id]
    )
    row = desk.row(job_id)
    assert (job.args, job.meta, job.key, job.timeout_secs, job.group_key) == (({"x": [1]},), {"a": 1}, "k", 5.0, "g")
    assert (job.scheduled_at, job.enqueued_at) == (row["scheduled_at"], row["enqueued_at"])
    assert desk.run(queries.get(UNKNOWN, json.loads)) is None


def test_queues_are_counted_by_status(desk: Desk) -> None:
    desk.put(queue="a")
    desk.put(queue="a", delay=60)
    desk.take(queue="b")
    desk.run(admin.pause("c", "quiet"))
    stats = {one.queue: one for one in desk.run(queries.queue_stats())}
    assert stats["a"].counts == {"queued": 1, "scheduled": 1}
    assert stats["a"].oldest is not None
    assert stats["a"].oldest >= 0
    assert (stats["b"].counts, stats["b"].oldest, stats["b"].total) == ({"active": 1}, None, 1)
    assert (stats["c"].counts, stats["c"].paused, stats["c"].pause_reason) == ({}, True, "quiet")


def test_pausing_again_keeps_the_time_and_changes_the_reason(desk: Desk) -> None:
    desk.run(admin.pause("q", "one"))
    before = desk.one("select paused_at from {queues}")
    desk.run(admin.pause("q", "two"))
    assert desk.sql("select paused_at, reason from {queues}") == [(before, "two")]
