"""Children of a prefork worker are replaced, one by one, when they are old, big, unlucky or unwanted; jobs are not."""

import signal
from collections.abc import Callable

from pgwerk import EnqueueParams, JobStatus, Werk
from tests.fixtures.workers import Notes, WorkerProcess, eventually, living_workers
from tests.workers import handlers
from tests.workers.test_prefork import complete

Start = Callable[..., WorkerProcess]


def test_children_are_replaced_after_max_jobs_without_dropping_one(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    worker_process(processes=1, concurrency=2, max_jobs=20)
    names = [str(number) for number in range(100)]
    for name in names:
        app.enqueue(handlers.noted, name)
    eventually(lambda: complete(app) == 100, 60)
    assert sorted(notes.all(), key=int) == names
    pids = {pid for name in names for pid in notes.pids(name)}
    assert len(pids) >= 3


def test_a_hangup_replaces_every_child_one_after_the_other(app: Werk, worker_process: Start, notes: Notes) -> None:
    process = worker_process(processes=2, concurrency=2)
    living_workers(app, 2)
    before = set(process.children())
    running = app.enqueue(handlers.slow, "a", 0.8)
    assert running is not None
    notes.wait("start a")
    process.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(set(process.children()) - before) == 2 and len(process.children()) == 2, 30)
    assert app.get_job(running).status is JobStatus.COMPLETE
    assert app.get_job(running).attempts == 1


def test_hangups_under_load_drop_no_job_and_charge_none(app: Werk, worker_process: Start, notes: Notes) -> None:
    process = worker_process(processes=2, concurrency=4)
    living_workers(app, 2)
    seen = set(process.children())
    names = [str(number) for number in range(600)]
    _ = app.enqueue_many(EnqueueParams(handlers.noted, (name,)) for name in names)
    for round_number in range(2):
        before = set(process.children())
        process.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(now := set(process.children())) == 2 and not now & before, 30)  # noqa: B023
        assert complete(app) < len(names), f"under load, round {round_number}"
        seen |= set(process.children())
    eventually(lambda: complete(app) == len(names), 60, "all jobs")
    assert sorted(notes.all(), key=int) == names
    assert {job.attempts for job in app.list_jobs(limit=1000)} == {1}
    assert len(seen) == 6


def test_a_child_that_has_grown_is_replaced_without_dropping_what_it_runs(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    process = worker_process(processes=1, concurrency=2, max_rss="200M")
    (first,) = eventually(process.children)
    running = app.enqueue(handlers.long_nap, "a", 4.0)
    grown = app.enqueue(handlers.grow, 250)
    assert running is not None
    assert grown is not None
    eventually(lambda: process.children() not in ([], [first]), what="another child")
    assert f"child {first} uses" in process.output()
    for job in (running, grown):
        done = app.wait_for(job, timeout=20)
        assert (done.status, done.attempts) == (JobStatus.COMPLETE, 1)
    assert app.apply(handlers.add, 1, 2, timeout=30) == 3


def test_a_crash_looping_child_backs_off_and_says_why(app: Werk, worker_process: Start, notes: Notes) -> None:
    for _ in range(6):
        app.enqueue(handlers.exit_hard, 3)
    process = worker_process(processes=1, concurrency=1)
    eventually(lambda: process.output().count("exited with 3") >= 4, 30)
    assert "starting another in" in process.output()
