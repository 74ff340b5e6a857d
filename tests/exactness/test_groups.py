"""Groups over several processes: limits hold exactly, permits come back, and the others are not held up."""

import os
import signal

import pytest

from pgwerk import EnqueueParams, Group, JobStatus, Retry, Werk
from tests.exactness import handlers
from tests.exactness.helpers import Outside, Start, enqueued, expect, most_at_once
from tests.fixtures.workers import Notes, eventually, living_workers, thread_worker

pytestmark = pytest.mark.in_memory


@pytest.mark.slow
def test_two_hundred_members_over_four_processes_and_two_queues_never_overlap_while_others_flow(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    worker_process(processes=4, concurrency=8, queues=["left", "right"])
    living_workers(app, 4)
    members = [
        EnqueueParams(handlers.member, ("solo", 0.015), queue=("left", "right")[number % 2], group="solo", priority=1)
        for number in range(200)
    ]
    others = [EnqueueParams(handlers.noop, queue=("left", "right")[number % 2]) for number in range(2000)]
    app.enqueue_many(members)
    app.enqueue_many(others)
    outside.ended(2200, seconds=100)
    assert most_at_once(notes, "solo") == 1
    assert notes.count("enter solo") == 200
    assert outside.count("status = 'complete' and attempts = 1") == 2200
    # The members came first and were more urgent, and yet the others were done before them.
    assert outside.one("select max(completed_at) filter (where group_key is null) < max(completed_at) from {jobs}")
    outside.nothing_is_left_behind()


def test_a_limit_of_three_holds_exactly_over_processes(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    for _ in range(2):
        worker_process(processes=1, concurrency=6)
    living_workers(app, 2)
    app.enqueue_many([EnqueueParams(handlers.member, ("three", 0.03), group=Group("three", 3)) for _ in range(60)])
    outside.ended(60)
    # Never more, and the permits are used: with 12 threads at hand three are inside at some time.
    assert most_at_once(notes, "three") == 3
    outside.nothing_is_left_behind()


def test_members_whose_worker_is_killed_free_their_permit(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    process = worker_process(processes=2, concurrency=4)
    living_workers(app, 2)
    jobs = [
        enqueued(app.enqueue(handlers.named_nap, name, 0.3, _group="one", _retry=Retry(3))) for name in ("a", "b", "c")
    ]
    notes.wait("start a")
    (victim,) = notes.pids("start a")
    os.kill(victim, signal.SIGKILL)
    assert victim not in process.children() or True
    for job in jobs:
        expect(app, job, JobStatus.COMPLETE)
    assert (app.get_job(jobs[0]).attempts, app.get_job(jobs[0]).lost) == (1, 1)
    starts = [what for what in notes.all() if what.startswith(("start", "end"))]
    assert len(starts) == 7, starts  # the killed one left no end
    outside.nothing_is_left_behind()


@pytest.mark.parametrize("way", ["cancel", "delete", "abort", "update"])
def test_a_member_that_goes_away_before_it_starts_lets_the_next_one_run_at_once(
    app: Werk, notes: Notes, outside: Outside, way: str
) -> None:
    """Without waiting for the sweep, which comes once a minute."""
    with thread_worker(app, concurrency=4):
        first = enqueued(app.enqueue(handlers.until_noted, "first", "go", _group="g"))
        notes.wait("start first")
        others = [enqueued(app.enqueue(handlers.noted, str(number), _group="g")) for number in range(6)]
        eventually(lambda: outside.count("blocked") == 6)
        app.pause_queue("default")
        handlers.note("go")
        expect(app, first, JobStatus.COMPLETE)
        # Nobody is offered the permit while the queue is paused. Now let one compete that no worker claims.
        assert outside.count("blocked") == 6
        gone, *rest = [job.id for job in others]
        outside.sql("update {jobs} set blocked = false, queue = 'served by nobody' where id = %s", gone)
        outside.sql("update {queues} set paused_at = null")
        match way:
            case "cancel":
                assert app.cancel_job(gone)
            case "delete":
                app.delete_job(gone)
            case "abort":
                assert app.abort_job(gone)
            case _:
                assert app.update_job(gone, delay=3600)
        for job_id in rest:
            expect(app, job_id, JobStatus.COMPLETE, seconds=8)
    assert len(notes.all()) == 3 + len(rest)


def test_a_running_member_that_is_aborted_lets_the_next_one_run(app: Werk, notes: Notes, outside: Outside) -> None:
    with thread_worker(app, concurrency=3):
        first = enqueued(app.enqueue(handlers.named_nap, "first", 20, _group="g"))
        notes.wait("start first")
        second = enqueued(app.enqueue(handlers.noted, "second", _group="g"))
        eventually(lambda: outside.count("blocked") == 1)
        assert app.abort_job(first)
        expect(app, first, JobStatus.ABORTED)
        expect(app, second, JobStatus.COMPLETE, seconds=8)


def test_a_running_member_that_is_deleted_lets_the_next_one_run(app: Werk, notes: Notes, outside: Outside) -> None:
    with thread_worker(app, concurrency=3):
        first = enqueued(app.enqueue(handlers.until_noted, "first", "go", _group="g"))
        notes.wait("start first")
        second = enqueued(app.enqueue(handlers.noted, "second", _group="g"))
        eventually(lambda: outside.count("blocked") == 1)
        app.delete_job(first)
        expect(app, second, JobStatus.COMPLETE, seconds=8)
        handlers.note("go")
        notes.wait("end first")
    assert outside.count() == 1, "its handler's end brings nothing back"


def test_every_failure_and_retry_of_a_member_gives_the_permit_to_the_others(app: Werk, outside: Outside) -> None:
    with thread_worker(app, concurrency=4):
        failing = [enqueued(app.enqueue(handlers.fails, _group="g", _retry=Retry(3))) for _ in range(5)]
        fine = [enqueued(app.enqueue(handlers.noop, _group="g")) for _ in range(5)]
        for job in failing:
            expect(app, job, JobStatus.FAILED, attempts=3)
        for job in fine:
            expect(app, job, JobStatus.COMPLETE, attempts=1)
    outside.nothing_is_left_behind()


def test_members_given_back_at_a_stop_free_their_permits(app: Werk, notes: Notes, outside: Outside) -> None:
    jobs = [enqueued(app.enqueue(handlers.named_nap, str(n), 0.2, _group="g")) for n in range(3)]
    with thread_worker(app, concurrency=3, shutdown_timeout=0.01):
        notes.wait("start 0")
    assert outside.sql("select * from {permits}") == []
    with thread_worker(app, concurrency=3):
        for job in jobs:
            expect(app, job, JobStatus.COMPLETE)
    outside.nothing_is_left_behind()
