"""What is found first and acted on later, while others change it in between: each step looks again."""

from collections.abc import Callable
from typing import Any

import pytest

from pgwerk._app import requests
from pgwerk._core.operation import Operation, Procedure
from pgwerk._core.operations import manage
from pgwerk._core.operations.enqueue import enqueue_many
from pgwerk._core.operations.settle import release_waiting
from pgwerk._core.procedures import bulk, sweep
from pgwerk._core.statements import admin
from tests.database.builders import LIVE, OTHER, WORKER, Desk, failed, new

STARTED = 50


def step_by_step(desk: Desk, steps: Procedure[Any], meanwhile: Callable[[int], None]) -> Any:
    """Run a procedure, and something else before each of its operations; gives up after many."""

    try:
        op = next(steps)
        for number in range(200):
            meanwhile(number)
            op = steps.send(desk.run(op))
    except StopIteration as stop:
        return stop.value
    pytest.fail("it does not end")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH", 10)
    monkeypatch.setattr(sweep, "BATCH", 10)


def fail_all(desk: Desk) -> None:
    for taken in desk.claim(1000):
        desk.end(taken, failed())


def test_a_bulk_requeue_ends_and_counts_right_while_jobs_fail_again(desk: Desk) -> None:
    for _ in range(STARTED):
        desk.put()
    fail_all(desk)

    def meanwhile(_: int) -> None:
        fail_all(desk)

    assert step_by_step(desk, bulk.requeue_all(None, None), meanwhile) == STARTED
    fail_all(desk)
    assert desk.sql("select distinct attempts from {jobs}") == [(2,)]


def test_a_bulk_requeue_ends_while_other_jobs_come_and_fail(desk: Desk) -> None:
    for _ in range(STARTED):
        desk.put()
    fail_all(desk)

    def meanwhile(_: int) -> None:
        for _ in range(15):
            desk.put()
        fail_all(desk)
        # As long ago as if nothing had been left to settle.
        desk.sql("update {jobs} set completed_at = clock_timestamp() where status = 'failed' and attempts = 1"
                 " and completed_at > now() - interval '0.15 seconds'")  # fmt: skip

    assert step_by_step(desk, bulk.requeue_all(None, None), meanwhile) <= STARTED + 15


def test_a_bulk_cancel_goes_on_behind_a_batch_that_was_claimed(desk: Desk) -> None:
    jobs = [desk.put(priority=number) for number in range(STARTED)]

    def meanwhile(number: int) -> None:
        if number == 1:
            # The ten youngest, which were found just now.
            assert {one.id for one in desk.claim(10)} == set(jobs[-10:])

    assert step_by_step(desk, bulk.cancel_all(None), meanwhile) == STARTED - 10
    assert desk.one("select count(*) from {jobs} where status = 'aborted'") == STARTED - 10


def test_a_bulk_cancel_ends_while_jobs_come(desk: Desk) -> None:
    for _ in range(STARTED):
        desk.put()

    def meanwhile(number: int) -> None:
        if number:
            for _ in range(20):
                desk.put()

    assert step_by_step(desk, bulk.cancel_all(None), meanwhile) == STARTED


@pytest.mark.parametrize("cleaning", [lambda: bulk.purge(["failed"], 0.0), lambda: sweep.sweep(LIVE, None)])
def test_what_is_requeued_meanwhile_is_not_deleted(desk: Desk, cleaning: Callable[[], Procedure[Any]]) -> None:
    jobs = [desk.put(failure_ttl=0) for _ in range(STARTED)]
    fail_all(desk)
    requeued: set[str] = set()

    def meanwhile(number: int) -> None:
        if number < len(jobs):
            requeued.update(desk.run(admin.requeue([jobs[number]])))

    step_by_step(desk, cleaning(), meanwhile)
    assert requeued
    assert {row[0] for row in desk.sql("select id::text from {jobs}")} == requeued


@pytest.mark.postgres
def test_a_requeue_that_has_not_committed_keeps_its_job_from_a_purge(desk: Desk) -> None:
    taken = desk.take()
    desk.end(taken, failed())
    peer = desk.run.peer()
    peer.begin()
    assert peer.run(admin.requeue([taken.id])) == [taken.id]
    assert desk.run.perform(bulk.purge(["failed"], 0.0)) == 0
    peer.commit()
    assert desk.status(taken) == "queued"


def test_a_job_that_gets_more_time_meanwhile_does_not_expire(desk: Desk) -> None:
    jobs = [desk.put(ttl=3600) for _ in range(20)]
    desk.sql("update {jobs} set expires_at = now() - interval '1 second'")
    spared: set[str] = set()

    def meanwhile(number: int) -> None:
        waiting = [id_ for id_ in jobs if desk.status(id_) == "queued" and id_ not in spared]
        if waiting:
            more: Operation[bool] = manage.update(waiting[0], at=None, delay=0.0, priority=None, meta=None)
            spared.update(waiting[:1] if desk.run(more) else [])

    step_by_step(desk, sweep.sweep(LIVE, None), meanwhile)
    assert spared
    assert {row[0] for row in desk.sql("select id::text from {jobs} where status = 'queued'")} == spared


# Dependents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cleaning", ["sweep", "purge"])
@pytest.mark.postgres
def test_a_parent_that_completed_is_not_swept_from_under_an_open_transaction(desk: Desk, cleaning: str) -> None:
    parent = desk.take(result_ttl=0)
    other = desk.take(result_ttl=0)
    order = new(depends_on=parent.id)
    peer = desk.run.peer()
    peer.begin()
    peer.run(enqueue_many([order], always_tell=True))
    for one in (parent, other):
        desk.end(one)

    def clean() -> None:
        if cleaning == "sweep":
            desk.sweep()
        else:
            desk.run.perform(bulk.purge(["complete"], 0.0))

    clean()
    assert desk.statuses(parent, other) == ["complete", None]
    peer.commit()
    clean()
    # Nobody else has looked at it.
    assert desk.statuses(parent, order.id) == [None, "queued"]


@pytest.mark.postgres
def test_a_parent_that_was_deleted_by_hand_counts_as_failed(desk: Desk) -> None:
    parent = desk.take()
    order = new(depends_on=parent.id)
    peer = desk.run.peer()
    peer.begin()
    peer.run(enqueue_many([order], always_tell=True))
    desk.end(parent)
    assert desk.run(manage.delete([parent.id])) == [parent.id]
    peer.commit()
    desk.run(release_waiting([order.id]))
    assert desk.row(order.id)["error"] == f"dependency failed: {parent.id}"


@pytest.mark.postgres
def test_a_child_that_its_complete_parent_did_not_see_is_released_by_the_deletion(desk: Desk) -> None:
    parent = desk.take()
    order = new(depends_on=parent.id)
    peer = desk.run.peer()
    peer.begin()
    peer.run(enqueue_many([order], always_tell=True))
    desk.end(parent)
    peer.commit()
    assert desk.status(order.id) == "waiting"
    desk.run(manage.delete([parent.id]))
    assert desk.status(order.id) == "queued"


# Permits ------------------------------------------------------------------------------------------

UNFIT = {
    "expired": "update {jobs} set expires_at = now() - interval '1 second' where id = %s",
    "paused": "update {jobs} set queue = 'paused' where id = %s",
    "not due": "update {jobs} set scheduled_at = now() + interval '1 hour' where id = %s",
}


def blocked_members(desk: Desk, count: int) -> tuple[Any, list[str]]:
    """One that runs, and others that were denied."""
    holder = desk.take(group="g")
    members = [desk.put(group="g") for _ in range(count)]
    assert desk.claim(10) == []
    assert desk.one("select count(*) from {jobs} where blocked") == count
    return holder, members


@pytest.mark.parametrize("why", UNFIT)
def test_a_free_permit_is_offered_to_a_member_that_can_use_it(desk: Desk, why: str) -> None:
    holder, members = blocked_members(desk, 3)
    desk.run(admin.pause("paused", None))
    for id_ in members[:2]:
        desk.sql(UNFIT[why], id_)
    desk.end(holder)
    assert [one.id for one in desk.claim(10)] == members[2:]


def test_an_offer_to_a_member_that_expires_passes_on_before_the_sweep(desk: Desk) -> None:
    holder, members = blocked_members(desk, 3)
    desk.end(holder)
    assert desk.sql("select id::text from {jobs} where lane = 'ready'") == [(members[0],)], "it has the offer"
    desk.sql(UNFIT["expired"], members[0])
    assert desk.claim(10) == []
    assert desk.run.perform(sweep.recover(LIVE)).readied == 1
    (taken,) = desk.claim(10)
    assert taken.id == members[1]
    # While nothing is free, nobody is disturbed.
    assert desk.run.perform(sweep.recover(LIVE)).readied == 0
    desk.end(taken)
    assert [one.id for one in desk.claim(10)] == members[2:]


def test_members_of_a_queue_that_is_paused_leave_their_turn_to_others(desk: Desk) -> None:
    holder, members = blocked_members(desk, 2)
    desk.sql("update {jobs} set queue = 'soon paused' where id = %s", members[0])
    desk.end(holder)
    desk.run(manage.pause("soon paused", None))
    (taken,) = desk.claim(10)
    assert taken.id == members[1]
    desk.end(taken)
    assert desk.run(admin.resume("soon paused"))
    assert [one.id for one in desk.claim(10, "soon paused")] == members[:1]


def dies(desk: Desk, _job: str) -> Procedure[Any]:
    return sweep.recover_dead(WORKER, "killed")


def is_lost(desk: Desk, _job: str) -> Procedure[Any]:
    desk.live()
    desk.sql("update {worker} set expires_at = now() - interval '1 second'")
    return sweep.recover(LIVE)


@pytest.mark.parametrize(
    "release",
    [dies, is_lost, lambda _, job: requests.delete_job(job), lambda _, job: requests.abort_job(job)],
    ids=["dies", "is lost", "delete", "abort"],
)
def test_a_denial_that_passes_a_release_is_looked_at_again(desk: Desk, release: Any) -> None:
    """The denial commits when the release has looked for blocked members already, and before it commits."""
    holder = desk.take(group="g")
    member = desk.put(group="g")
    denied = False

    def meanwhile(_: int) -> None:
        nonlocal denied
        if not denied and desk.count("permits") == 0:
            denied = bool(desk.sql("update {jobs} set blocked = true where id = %s returning 1", member))

    step_by_step(desk, release(desk, holder.id), meanwhile)
    assert denied
    assert not desk.row(member)["blocked"]
    assert [one.id for one in desk.claim(1, worker=OTHER)][:1] != []
