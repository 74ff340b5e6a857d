"""Workers with processes, from start to end, and when they are killed themselves."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

import pgwerk
from pgwerk import JobStatus, Retry, Werk, WerkError
from tests.fixtures.processes import Kind, children, descendants, exists, zombies, zygote_of
from tests.fixtures.workers import Notes, WorkerProcess, eventually, living_workers, running
from tests.workers import handlers, worst_handlers

Start = Callable[..., WorkerProcess]


def test_nothing_is_left_of_a_worker_that_ended(app: Werk, hosting: Kind) -> None:
    before, threads = children(os.getpid()), set(threading.enumerate())
    with running(hosting, app, concurrency=3) as worker:
        zygote = zygote_of(worker)
        for _ in range(5):
            app.apply(handlers.noop, timeout=20)
        job = app.enqueue(handlers.segfault)
        assert job is not None
        app.wait_for(job, timeout=20)
        eventually(lambda: not zombies(children(zygote)))
    assert children(os.getpid()) == before
    assert not exists(zygote)
    left = {thread.name for thread in set(threading.enumerate()) - threads}
    assert not {name for name in left if name.startswith("werk-")}


def test_two_workers_in_one_process_do_not_hold_each_other(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1, queues=["a"]):
        started = time.monotonic()
        with running(hosting, app, concurrency=1, queues=["b"]):
            assert app.apply(handlers.add, 1, 2, timeout=20, _queue="b") == 3
        assert app.apply(handlers.add, 1, 2, timeout=20, _queue="a") == 3
        assert time.monotonic() - started < 5


def test_a_worker_can_run_again(app: Werk, hosting: Kind) -> None:
    worker = hosting(app, concurrency=2, burst=True)
    for _ in range(2):
        job = app.enqueue(handlers.add, 1, 2)
        assert job is not None
        worker.run()
        assert app.get_job(job).result == 3


def test_a_killed_zygote_ends_the_worker_and_its_jobs_are_given_back(
    app: Werk, hosting: Kind, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    job = app.enqueue(worst_handlers.sleeps, "a", 60)
    assert job is not None
    worker = hosting(app, concurrency=2)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except BaseException as error:  # noqa: BLE001  # shown below
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    notes.wait("start a")
    os.kill(zygote_of(worker), signal.SIGKILL)
    thread.join(20)
    assert not thread.is_alive()
    (error,) = failure
    assert isinstance(error, WerkError)
    assert "was killed by SIGKILL" in str(error)
    given_back = app.get_job(job)
    assert (given_back.status, given_back.attempts, given_back.lost) == (JobStatus.QUEUED, 0, 1)
    eventually(lambda: not exists(notes.pids("start a")[0]), 2)


def test_nothing_is_left_when_the_worker_is_killed(
    app: Werk, worker_process: Start, kind_name: str, notes: Notes
) -> None:
    job = app.enqueue(worst_handlers.sleeps, "a", 60, _retry=Retry(2))
    assert job is not None
    process = worker_process(kind=kind_name, concurrency=3)
    notes.wait("start a")
    ours = eventually(lambda: found if len(found := descendants(process.pid)) >= 4 else None)
    assert notes.pids("start a")[0] in ours
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    eventually(lambda: not any(exists(pid) for pid in ours), 1.0, "the end of all processes")
    with running(pgwerk.ThreadWorker, app, queues=["none"]):
        recovered = eventually(lambda: found if (found := app.get_job(job)).status is JobStatus.QUEUED else None)
    assert recovered.attempts == 0
    assert "worker lost" in (app.get_executions(job)[0].error or "")


def test_a_term_to_every_process_lets_what_runs_finish(
    app: Werk, worker_process: Start, kind_name: str, notes: Notes
) -> None:
    job = app.enqueue(handlers.slow, "a", 1.0)
    assert job is not None
    process = worker_process(kind=kind_name, concurrency=2)
    notes.wait("start a")
    # As systemd does.
    for pid in [process.pid, *descendants(process.pid)]:
        os.kill(pid, signal.SIGTERM)
    assert process.wait() == 0, process.output()
    done = app.get_job(job)
    assert (done.status, done.attempts) == (JobStatus.COMPLETE, 1)


def test_a_second_term_gives_back_at_once(app: Werk, worker_process: Start, kind_name: str, notes: Notes) -> None:
    process = worker_process(kind=kind_name, concurrency=2, shutdown_timeout=60)
    job = app.enqueue(worst_handlers.sleeps, "a", 60)
    assert job is not None
    notes.wait("start a")
    process.terminate()
    eventually(lambda: "SIGTERM: stopping; waiting up to" in process.output())
    started = time.monotonic()
    process.terminate()
    assert process.wait() == 0, process.output()
    assert time.monotonic() - started < 4
    given_back = app.get_job(job)
    assert (given_back.status, given_back.attempts) == (JobStatus.QUEUED, 0)


def test_a_usr1_shows_where_a_process_is(app: Werk, worker_process: Start, kind_name: str, notes: Notes) -> None:
    process = worker_process(kind=kind_name, concurrency=1)
    living_workers(app)
    app.enqueue(worst_handlers.sleeps, "a", 60)
    notes.wait("start a")
    os.kill(notes.pids("start a")[0], signal.SIGUSR1)
    eventually(lambda: "in sleeps" in process.output(), 5)
