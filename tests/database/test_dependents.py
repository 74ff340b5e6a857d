"""Dependents: released exactly once however the child's commit and the parents' ends pass each other."""

import itertools
import random
from datetime import timedelta

import pytest

from pgwerk._core.claim import Claimed
from pgwerk._core.operations import enqueue as enqueue_op
from pgwerk._core.operations import manage
from pgwerk._core.operations import settle as op
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.options import Dependency, Retry
from pgwerk._core.outcome import Aborted, Lost, Outcome
from pgwerk._core.statements import admin, dependents, queries
from pgwerk._memory.messages import WAKE
from tests.database.builders import OTHER, WORKER, Desk, failed, ids, new, report

ENDS = pytest.mark.parametrize("outcome", [None, failed()], ids=["succeeds", "fails"])


def test_a_child_waits_for_its_parent(desk: Desk) -> None:
    parent = desk.put()
    child = desk.put(depends_on=parent)
    assert desk.status(child) == "waiting"
    assert desk.run(queries.dependencies(child)) == [parent]
    (taken,) = desk.claim()
    desk.end(taken)
    assert desk.status(child) == "queued"
    assert ids(desk.claim()) == [child]


def test_a_child_of_an_ended_parent_is_queued_at_once(desk: Desk) -> None:
    taken = desk.take()
    desk.end(taken)
    (answer,) = desk.send([new(depends_on=taken.job.id)])
    assert answer is not None
    assert answer.status == "queued"


def test_a_child_of_a_failed_parent_fails_at_once_with_the_reason(desk: Desk) -> None:
    taken = desk.take()
    desk.end(taken, failed())
    (answer,) = desk.send([new(depends_on=taken.job.id, on_failure="app.no")])
    assert answer is not None
    row = desk.row(answer.id)
    assert (answer.status, row["status"], row["error"]) == ("failed", "failed", f"dependency failed: {taken.job.id}")
    assert desk.one("select function from {jobs} where callback_of = %s", answer.id) == "app.no"


def test_a_tolerant_child_goes_on_after_a_failure_or_an_abort(desk: Desk) -> None:
    for outcome in (failed(), Aborted()):
        taken = desk.take()
        child = desk.put(depends_on=Dependency(taken.job.id, allow_failure=True))
        desk.end(taken, outcome)
        assert desk.status(child) == "queued"
        desk.end(desk.claim()[0])


def test_a_retry_of_the_parent_keeps_the_child_waiting(desk: Desk) -> None:
    taken = desk.take(retry=Retry(2))
    child = desk.put(depends_on=taken.job.id)
    desk.end(taken, failed())
    assert desk.status(child) == "waiting"
    (again,) = desk.claim()
    desk.end(again, failed())
    assert desk.status(child) == "failed"


def test_all_parents_have_to_succeed_in_any_order(desk: Desk) -> None:
    for turn in itertools.permutations(range(3)):
        parents = [desk.take(n) for n in range(3)]
        child = desk.put(depends_on=[one.job.id for one in parents])
        for place, number in enumerate(turn):
            assert desk.status(child) == "waiting"
            desk.end(parents[number])
            assert desk.status(child) == ("queued" if place == 2 else "waiting")
        desk.end(desk.claim()[0])


def test_one_failed_parent_is_enough_to_fail_whatever_the_others_do(desk: Desk) -> None:
    one, two = desk.take(1), desk.take(2)
    child = desk.put(depends_on=[one.job.id, two.job.id])
    desk.end(two, failed())
    assert desk.status(child) == "failed"
    desk.end(one)
    assert desk.status(child) == "failed"


def test_failures_cascade_down_a_chain(desk: Desk) -> None:
    first = desk.take()
    chain = [first.job.id]
    for _ in range(20):
        chain.append(desk.put(depends_on=chain[-1]))
    desk.end(first, failed())
    assert desk.statuses(*chain) == ["failed"] * 21
    assert desk.row(chain[-1])["error"] == f"dependency failed: {chain[-2]}"


def test_a_long_chain_can_be_built_run_and_failed(desk: Desk) -> None:
    first = desk.take()
    previous, new_jobs = first.job.id, []
    for _ in range(300):
        new_job = new(depends_on=previous)
        previous = new_job.id
        new_jobs.append(new_job)
    desk.send(new_jobs)
    desk.end(first, failed())
    assert desk.one("select count(*) from {jobs} where status = 'failed'") == 301


def test_a_diamond_is_released_once(desk: Desk) -> None:
    top = desk.take()
    left, right = desk.put(depends_on=top.job.id), desk.put(depends_on=top.job.id)
    bottom = desk.put(depends_on=[left, right])
    desk.end(top)
    middle = desk.claim()
    assert sorted(ids(middle)) == sorted([left, right])
    desk.run(op.settle([report(one) for one in middle], WORKER))
    assert ids(desk.claim()) == [bottom]
    assert desk.row(bottom)["attempts"] == 1


def test_a_parent_and_its_child_in_one_bulk(desk: Desk) -> None:
    parent = new(1)
    child = new(2, depends_on=parent.id)
    answers = desk.send([child, parent])
    assert [answer.status for answer in answers if answer] == ["waiting", "queued"]
    desk.end(desk.claim()[0])
    assert ids(desk.claim()) == [child.id]


def test_a_delay_counts_from_the_release_and_a_time_stays(desk: Desk) -> None:
    parent = desk.take()
    later = desk.now() + timedelta(hours=1)
    child, timed = desk.put(depends_on=parent.job.id, delay=60, ttl=30), desk.put(depends_on=parent.job.id, at=later)
    assert desk.row(child)["expires_at"] is None
    desk.end(parent)
    row = desk.row(child)
    assert row["status"] == "scheduled"
    assert (row["scheduled_at"] - desk.now()).total_seconds() == pytest.approx(60, abs=2)
    assert row["expires_at"] == row["scheduled_at"] + timedelta(seconds=30)
    assert (desk.row(timed)["status"], desk.row(timed)["scheduled_at"]) == ("scheduled", later)


# Passing each other ---------------------------------------------------------------


@ENDS
def test_the_child_commits_first(desk: Desk, outcome: Outcome | None) -> None:
    parent = desk.take()
    child = desk.put(depends_on=parent.job.id)
    desk.end(parent, outcome)
    assert desk.status(child) == ("failed" if outcome else "queued")


@ENDS
@pytest.mark.parametrize("first", ["the child", "the parent"])
@pytest.mark.postgres
def test_the_childs_transaction_and_the_settle_overlap(desk: Desk, outcome: Outcome | None, first: str) -> None:
    parent = desk.take()
    new_job = new(depends_on=parent.job.id)
    child, settler = desk.run.peer(), desk.run.peer()
    child.begin()
    settler.begin()
    if first == "the child":
        child.run(enqueue_op.enqueue_many([new_job], always_tell=True))
        settler.run(op.settle([report(parent, outcome)], WORKER))
        child.commit()
        settler.commit()
    else:
        settler.run(op.settle([report(parent, outcome)], WORKER))
        child.run(enqueue_op.enqueue_many([new_job], always_tell=True))
        settler.commit()
        child.commit()
    assert desk.status(new_job.id) == "waiting"
    # Either of the three occasions finds it: the child's own second look, its notification, the next turn, the sweep.
    assert desk.run(dependents.late_dependents([parent.job.id])) == [new_job.id]
    assert desk.run(op.release_waiting([new_job.id])) == 1
    assert desk.status(new_job.id) == ("failed" if outcome else "queued")
    assert desk.run(op.release_waiting([new_job.id])) == 0
    assert desk.sweep().released == 0


@ENDS
@pytest.mark.postgres
def test_a_settle_that_commits_before_the_child_looks_is_seen_by_the_child(desk: Desk, outcome: Outcome | None) -> None:
    parent = desk.take()
    child = desk.run.peer()
    child.begin()
    child.sql("select 1")
    desk.end(parent, outcome)
    new_job = new(depends_on=parent.job.id)
    child.run(enqueue_op.enqueue_many([new_job], always_tell=True))
    child.commit()
    assert desk.status(new_job.id) == ("failed" if outcome else "queued")


@pytest.mark.postgres
def test_a_child_inside_a_long_transaction_is_released_after_its_commit_by_the_sweep(desk: Desk) -> None:
    parent = desk.take()
    new_job = new(depends_on=parent.job.id)
    child = desk.run.peer()
    child.begin()
    child.run(enqueue_op.enqueue_many([new_job], always_tell=True))
    desk.end(parent)
    assert desk.run(dependents.late_dependents([parent.job.id])) == []
    assert desk.sweep().released == 0
    child.commit()
    assert desk.sweep().released == 1
    assert desk.status(new_job.id) == "queued"


@pytest.mark.postgres
def test_the_childs_commit_tells_workers_to_look(desk: Desk) -> None:
    parent = desk.take()
    desk.looking.listen(WAKE)
    new_job = new(depends_on=parent.job.id)
    child = desk.run.peer()
    child.begin()
    child.run(enqueue_op.enqueue_many([new_job], always_tell=True))
    desk.end(parent)
    assert desk.looking.heard() == []
    child.commit()
    assert desk.looking.heard() == [f"w{new_job.id}"]


def test_the_child_looks_again_after_its_own_commit(desk: Desk) -> None:
    """The caller of enqueue gets the second look without a worker: between its walk's insert and its commit."""
    parent = desk.take()
    new_job = new(depends_on=parent.job.id)
    inserted, waiting = desk.run(enqueue_op.enqueue_many([new_job], always_tell=False))
    assert waiting == [new_job.id]
    desk.sql("update {jobs} set status = 'complete' where id = %s", parent.job.id)
    assert desk.run(op.release_waiting(waiting)) == 1
    (row,) = desk.run(enqueue_op.look_again(waiting))
    assert (inserted[new_job.id].status, row.status) == ("waiting", "queued")


@pytest.mark.parametrize("outcomes", [(None, None), (None, failed()), (failed(), None), (failed(), failed())])
@pytest.mark.postgres
def test_two_parents_ending_in_two_open_transactions_agree(
    desk: Desk, outcomes: tuple[Outcome | None, Outcome | None]
) -> None:
    one, two = desk.take(1), desk.take(2)
    child = desk.put(depends_on=[one.job.id, two.job.id])
    first, second = desk.run.peer(), desk.run.peer()
    first.begin()
    first.run(op.settle([report(one, outcomes[0])], WORKER))
    second.start(op.settle([report(two, outcomes[1])], OTHER))
    assert second.waits
    first.commit()
    assert second.finish()
    assert desk.status(child) == ("failed" if any(outcomes) else "queued")
    assert desk.one("select count(*) from {jobs}") == 3


@pytest.mark.postgres
def test_a_parent_whose_settle_is_rolled_back_releases_nothing(desk: Desk) -> None:
    one, two = desk.take(1), desk.take(2)
    child = desk.put(depends_on=[one.job.id, two.job.id])
    first, second = desk.run.peer(), desk.run.peer()
    first.begin()
    first.run(op.settle([report(one)], WORKER))
    second.start(op.settle([report(two)], OTHER))
    first.rollback()
    second.finish()
    assert desk.status(child) == "waiting"
    desk.end(one)
    assert desk.status(child) == "queued"


@pytest.mark.postgres
def test_releasing_and_settling_at_once_release_once(desk: Desk) -> None:
    parent = desk.take()
    child = desk.put(depends_on=parent.job.id)
    settler, looker = desk.run.peer(), desk.run.peer()
    settler.begin()
    settler.run(op.settle([report(parent)], WORKER))
    looker.start(op.release_waiting([child]))
    settler.commit()
    assert looker.finish() == 0
    assert desk.status(child) == "queued"
    (taken,) = desk.claim()
    desk.end(taken)
    assert desk.run(op.release_waiting([child])) == 0
    assert desk.status(child) == "complete"


@pytest.mark.postgres
def test_cancelling_a_child_while_its_parent_ends(desk: Desk) -> None:
    for first in ("cancel", "settle"):
        parent = desk.take()
        child = desk.put(depends_on=parent.job.id)
        one, two = desk.run.peer(), desk.run.peer()
        cancel, settle = op.end_unstarted([child], Aborted()), op.settle([report(parent)], WORKER)
        one.begin()
        one.run(cancel if first == "cancel" else settle)
        two.start(settle if first == "cancel" else cancel)
        assert two.waits
        one.commit()
        two.finish()
        assert desk.statuses(parent, child) == ["complete", "aborted"]


# Parents that go ------------------------------------------------------------------


@pytest.mark.parametrize("way", ["cancel", "delete", "abort", "lost", "expire"])
def test_a_parent_that_never_succeeds_fails_its_children(desk: Desk, way: str) -> None:
    desk.live()
    parent = desk.put(ttl=50)
    child = desk.put(depends_on=parent)
    tolerant = desk.put(depends_on=Dependency(parent, allow_failure=True))
    grandchild = desk.put(depends_on=child)
    match way:
        case "cancel":
            desk.run(op.end_unstarted([parent], Aborted()))
        case "delete":
            assert desk.run(manage.delete([parent])) == [parent]
        case "abort":
            desk.run(manage.abort(parent))
        case "lost":
            desk.sql("update {jobs} set max_lost = 0 where id = %s", parent)
            desk.end(desk.claim()[0], Lost("worker lost", begun=True))
        case _:
            desk.ago(parent, 60, "expires_at")
            desk.sweep()
    assert desk.statuses(child, tolerant, grandchild) == ["failed", "queued", "failed"]


def test_a_deleted_parent_that_had_succeeded_does_not_matter(desk: Desk) -> None:
    one, two = desk.take(1), desk.take(2)
    child = desk.put(depends_on=[one.job.id, two.job.id])
    desk.end(one)
    desk.run(manage.delete([one.job.id]))
    assert desk.status(child) == "waiting"
    desk.end(two)
    assert desk.status(child) == "queued"


@pytest.mark.postgres
def test_a_parent_deleted_while_the_child_is_inserted_fails_the_child(desk: Desk) -> None:
    parent = desk.put()
    new_job = new(depends_on=parent)
    child = desk.run.peer()
    child.begin()
    child.run(enqueue_op.enqueue_many([new_job], always_tell=True))
    desk.run(manage.delete([parent]))
    child.commit()
    assert desk.sweep().released == 1
    assert desk.row(new_job.id)["error"] == f"dependency failed: {parent}"


def test_a_deleted_child_leaves_its_siblings_alone(desk: Desk) -> None:
    parent = desk.take()
    child, sibling = desk.put(depends_on=parent.job.id), desk.put(depends_on=parent.job.id)
    desk.run(manage.delete([child]))
    assert desk.count("job_deps") == 1
    desk.end(parent)
    assert desk.status(sibling) == "queued"


def test_a_failed_child_that_is_queued_again_runs(desk: Desk) -> None:
    parent = desk.take()
    child = desk.put(depends_on=parent.job.id)
    desk.end(parent, failed())
    assert desk.run(admin.requeue([child])) == [child]
    (taken,) = desk.claim()
    assert taken.job.id == child
    desk.end(taken)
    assert desk.status(child) == "complete"


def test_a_waiting_job_without_dependencies_is_released_by_the_sweep(desk: Desk) -> None:
    job_id = desk.put()
    desk.sql("update {jobs} set status = 'waiting'")
    assert desk.sweep().released == 1
    assert desk.status(job_id) == "queued"


@pytest.mark.postgres
def test_a_deadlock_between_settles_is_resolved_by_walking_again(desk: Desk) -> None:
    """Two parents, each settled with a child of the other: whatever the order, both ends are written."""
    parents = [desk.take(n) for n in range(4)]
    children = [desk.put(depends_on=[one.job.id for one in pair]) for pair in itertools.combinations(parents, 2)]
    peers = [desk.run.peer() for _ in parents]
    for peer, parent in zip(peers, parents, strict=True):
        peer.launch(op.settle([report(parent)], WORKER))
    assert all(peer.finish() for peer in peers)
    assert desk.statuses(*children) == ["queued"] * 6


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_end_as_their_edges_say(desk: Desk, seed: int) -> None:
    draw = random.Random(seed)
    new_jobs: list[NewJob] = []
    parents: dict[str, list[Dependency]] = {}
    for number in range(30):
        chosen = draw.sample(new_jobs, min(len(new_jobs), draw.choice([0, 0, 1, 2, 3])))
        edges = [Dependency(one.id, allow_failure=draw.random() < 0.3) for one in chosen]
        new_job = new(number, **({"depends_on": edges} if edges else {}))
        parents[new_job.id] = edges
        new_jobs.append(new_job)
    bad = {new_job.id for new_job in new_jobs if draw.random() < 0.2}
    desk.send(new_jobs[:20])
    late = new_jobs[20:]
    running: list[Claimed] = []
    while True:
        if late and draw.random() < 0.5:
            desk.send([late.pop(0)])
        running += desk.claim(draw.randint(1, 5))
        if not running and not late:
            break
        draw.shuffle(running)
        while running and draw.random() < 0.7:
            taken = running.pop()
            desk.end(taken, failed() if taken.job.id in bad else None)
    expected: dict[str, str] = {}
    for new_job in new_jobs:
        hopeless = any(expected[e.id] == "failed" and not e.allow_failure for e in parents[new_job.id])
        expected[new_job.id] = "failed" if hopeless or new_job.id in bad else "complete"
    assert {new_job.id: desk.status(new_job.id) for new_job in new_jobs} == expected
    assert desk.one("select count(*) from {executions} where status = 'complete'") == sum(
        status == "complete" for status in expected.values()
    )
