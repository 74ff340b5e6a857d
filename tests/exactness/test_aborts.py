"""Aborts are never lost, wherever the job is at that moment."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pgwerk import JobStatus, Retry, Werk
from pgwerk._app.clock import new_id
from pgwerk._core.statements import claims, workers
from tests.exactness import handlers
from tests.exactness.helpers import Outside, Start, enqueued, expect
from tests.fixtures.workers import Notes, burst, eventually, living_workers, thread_worker

pytestmark = pytest.mark.in_memory


@pytest.mark.parametrize("where", ["queued", "scheduled", "waiting", "blocked"])
def test_a_job_that_has_not_started_ends_at_once_without_any_worker(
    app: Werk, notes: Notes, outside: Outside, where: str
) -> None:
    options: dict[str, Any] = {}
    if where == "scheduled":
        options["_delay"] = 3600
    elif where == "waiting":
        options["_depends_on"] = app.enqueue(handlers.noop, _delay=3600)
    elif where == "blocked":
        options["_group"] = "g"
        worker = new_id()
        app._runtime.backend.run(workers.register(worker, "by hand", ["default"], {}, 3600))
        _ = app.enqueue(handlers.noop, _group="g")
        assert len(app._runtime.backend.run(claims.claim(["default"], 1, worker)).jobs) == 1
    job = enqueued(app.enqueue(handlers.noted, "never", _on_stopped=handlers.on_end, **options))
    if where == "blocked":
        burst(app)
        assert outside.count("blocked") == 1
    assert app.abort_job(job)
    ended = app.get_job(job)
    assert (ended.status, ended.error, ended.attempts) == (JobStatus.ABORTED, "aborted", 0)
    assert app.abort_job(job) is False
    burst(app)
    assert notes.all() == [f"callback aborted {job.id}"]


def test_a_running_job_is_interrupted_and_its_callback_told(app: Werk, worker_process: Start, notes: Notes) -> None:
    worker_process(processes=1, concurrency=2, abort_interval=60)
    job = enqueued(app.enqueue(handlers.named_nap, "a", 60, _retry=Retry(3), _on_stopped=handlers.on_end))
    notes.wait("start a")
    assert app.abort_job(job)
    ended = expect(app, job, JobStatus.ABORTED, attempts=1)
    assert ended.error == "aborted"
    assert [e.status.value for e in app.get_executions(job)] == ["aborted"]
    notes.wait(f"callback aborted {job.id}")
    assert "end a" not in notes.all()


def test_jobs_in_the_buffer_of_a_busy_worker_end_without_being_started(
    app: Werk, notes: Notes, outside: Outside
) -> None:
    """The buffer is what a worker has claimed ahead of its free threads."""
    with thread_worker(app, concurrency=1):
        # Fast jobs make it claim ahead; the slow ones among them keep it from starting what it claimed.
        for number in range(300):
            _ = app.enqueue(handlers.noop) if number % 3 else app.enqueue(handlers.nap, 0.03)
        eventually(lambda: outside.count("status = 'active'") > 2)
        held = outside.sql("select id::text from {jobs} where status = 'active' order by scheduled_at")
        asked = [id_ for (id_,) in held if app.abort_job(id_)]
        for id_ in asked:
            expect(app, id_, JobStatus.ABORTED)
        outside.ended(300)
    outside.nothing_is_left_behind()


def test_a_job_is_aborted_while_its_worker_drains(app: Werk, worker_process: Start, notes: Notes) -> None:
    process = worker_process(processes=1, concurrency=2, shutdown_timeout=60, abort_interval=0.2)
    job = enqueued(app.enqueue(handlers.named_nap, "a", 60))
    notes.wait("start a")
    process.terminate()
    eventually(lambda: "stopping" in process.output())
    assert app.abort_job(job)
    expect(app, job, JobStatus.ABORTED)
    assert process.wait(20) == 0


def test_a_job_of_a_worker_that_died_a_moment_ago_ends_aborted_and_never_runs_again(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    """Its row still says that it lives: whoever finds it dead remembers the abort."""
    process = worker_process(kind="thread", concurrency=1, config={"heartbeat_interval": 0.4})
    job = enqueued(app.enqueue(handlers.named_nap, "a", 60, _retry=Retry(5), _on_stopped=handlers.on_end))
    notes.wait("start a")
    process.kill_tree()
    assert app.abort_job(job)
    assert app.get_job(job).status is JobStatus.ABORTING
    with thread_worker(app, heartbeat_interval=0.2):
        expect(app, job, JobStatus.ABORTED, attempts=1, seconds=8)
        notes.wait(f"callback aborted {job.id}")
    assert notes.count("start a") == 1


def test_a_job_of_a_worker_known_to_be_dead_ends_at_once(app: Werk, worker_process: Start, notes: Notes) -> None:
    process = worker_process(kind="thread", concurrency=1, config={"heartbeat_interval": 0.2})
    job = enqueued(app.enqueue(handlers.named_nap, "a", 60, _retry=Retry(5)))
    notes.wait("start a")
    process.kill_tree()
    eventually(lambda: [w.status for w in app.list_workers()] == ["lost"])
    assert app.abort_job(job)
    assert app.get_job(job).status is JobStatus.ABORTED


def test_a_prefork_child_killed_while_it_is_asked_to_abort_leaves_the_job_aborted(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    worker_process(processes=1, concurrency=1)
    job = enqueued(app.enqueue(handlers.blocked_in_c, "a", 60, _retry=Retry(5)))
    notes.wait("start a")
    (victim,) = notes.pids("start a")
    assert app.abort_job(job)
    os.kill(victim, signal.SIGKILL)
    expect(app, job, JobStatus.ABORTED, attempts=1)


def test_a_handler_that_swallows_the_interruption_and_returns_is_aborted_all_the_same(app: Werk, notes: Notes) -> None:
    with thread_worker(app, concurrency=1):
        job = enqueued(app.enqueue(handlers.swallows, "a", 1.0))
        child = enqueued(app.enqueue(handlers.noted, "child", _depends_on=job))
        notes.wait("start a")
        assert app.abort_job(job)
        ended = expect(app, job, JobStatus.ABORTED)
        assert ended.result is None
        expect(app, child, JobStatus.FAILED)
    assert notes.all() == ["start a", "swallowed a", "end a"]


@pytest.mark.slow
@pytest.mark.parametrize("handler", [handlers.swallows, handlers.blocked_in_c])
def test_a_handler_that_does_not_stop_when_it_is_aborted_costs_its_process(
    app: Werk, worker_process: Start, notes: Notes, handler: Callable[..., object]
) -> None:
    """As one that ignores its timeout does: the job ends, and the slot is not lost."""
    process = worker_process(processes=1, concurrency=1)
    living_workers(app, 1)
    (first,) = process.children()
    job = enqueued(app.enqueue(handler, "a", 60))
    notes.wait("start a")
    assert app.abort_job(job)
    expect(app, job, JobStatus.ABORTED, seconds=20)
    assert app.apply(handlers.echo, 5, timeout=20) == 5
    eventually(lambda: process.children() not in ([], [first]), what="another child")


def test_aborting_at_every_moment_of_many_short_jobs_never_loses_one(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    worker_process(processes=2, concurrency=4)
    living_workers(app, 2)
    wanted: list[str] = []

    def abort_some(jobs: list[str]) -> None:
        wanted.extend(id_ for id_ in jobs if app.abort_job(id_))

    jobs = [enqueued(app.enqueue(handlers.nap, 0.01)).id for _ in range(400)]
    threads = [threading.Thread(target=abort_some, args=(jobs[place::4],)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outside.ended(400)
    statuses = {id_: app.get_job(id_).status for id_ in jobs}
    # Whoever was told that the job will be stopped sees it stopped, also when its handler was just done.
    assert {statuses[id_] for id_ in wanted} <= {JobStatus.ABORTED}
    assert all(status is JobStatus.COMPLETE for id_, status in statuses.items() if id_ not in wanted)
    outside.nothing_is_left_behind()


def test_an_interruption_never_reaches_the_next_job_of_the_thread(app: Werk, outside: Outside) -> None:
    """Aborts that arrive just when a handler ends."""
    with thread_worker(app, concurrency=2, abort_interval=0.01):
        for _ in range(60):
            victim = enqueued(app.enqueue(handlers.nap, 0.004))
            others = [enqueued(app.enqueue(handlers.nap, 0.002)) for _ in range(3)]
            deadline = time.monotonic() + 0.2
            while app.get_job(victim).status is JobStatus.QUEUED and time.monotonic() < deadline:
                pass
            told = app.abort_job(victim)
            ended = app.wait_for(victim, timeout=20)
            assert ended.status is (JobStatus.ABORTED if told else JobStatus.COMPLETE)
            for job in others:
                expect(app, job, JobStatus.COMPLETE, attempts=1)
    outside.nothing_is_left_behind()


def test_a_job_whose_abort_meets_its_own_end_at_the_database_is_either(app: Werk, outside: Outside) -> None:
    with thread_worker(app, concurrency=4):
        jobs = [enqueued(app.enqueue(handlers.noop)) for _ in range(200)]
        told = {job.id: app.abort_job(job) for job in jobs}
        outside.ended(200)
    for job in jobs:
        assert app.get_job(job).status is (JobStatus.ABORTED if told[job.id] else JobStatus.COMPLETE)
