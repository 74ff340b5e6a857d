"""What is special about coroutines: one loop, cancellation, functions in threads beside it."""

import logging
import threading
import time

import pytest

from pgwerk import AsyncWorker, JobStatus, Werk, WerkError
from tests.fixtures.workers import Notes, eventually, living_workers, running
from tests.workers import handlers

pytestmark = pytest.mark.in_memory


def test_coroutines_share_one_loop_and_functions_get_threads(app: Werk) -> None:
    with running(AsyncWorker, app, concurrency=5):
        assert len(set(app.map(handlers.loop_id, [{} for _ in range(20)], timeout=20))) == 1
        assert app.apply(handlers.thread_name, timeout=20) == "werk-sync"


def test_jobs_overlap_up_to_the_concurrency(app: Werk) -> None:
    with running(AsyncWorker, app, concurrency=50):
        started = time.monotonic()
        app.map(handlers.async_sleep, [{"seconds": 0.5} for _ in range(100)], timeout=20)
        assert 1.0 <= time.monotonic() - started < 4.0


def test_a_timeout_cancels_a_coroutine(app: Werk, notes: Notes) -> None:
    with running(AsyncWorker, app, concurrency=1):
        job = app.enqueue(handlers.async_nap, "a", 30, _timeout=0.2)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
        assert (failed.status, failed.attempts) == (JobStatus.FAILED, 1)
        assert "timed out after 0.2 s" in (failed.error or "")
        assert "async_nap" in (failed.error or ""), "the traceback shows where it was"
        assert app.apply(handlers.coroutine, 1, timeout=20) == 2
    assert "end a" not in notes.all()


def test_an_abort_cancels_a_coroutine(app: Werk, notes: Notes) -> None:
    with running(AsyncWorker, app):
        job = app.enqueue(handlers.async_nap, "a", 30)
        assert job is not None
        notes.wait("start a")
        assert app.abort_job(job)
        assert app.wait_for(job, timeout=20).status is JobStatus.ABORTED


def test_a_shutdown_cancels_coroutines_and_gives_them_back(app: Werk, notes: Notes) -> None:
    job = app.enqueue(handlers.async_nap, "a", 30)
    assert job is not None
    with running(AsyncWorker, app, shutdown_timeout=0.2):
        notes.wait("start a")
    given_back = app.get_job(job)
    assert (given_back.status, given_back.attempts) == (JobStatus.QUEUED, 0)


def test_a_cancellation_of_its_own_is_a_failure(app: Werk) -> None:
    with running(AsyncWorker, app, concurrency=1):
        job = app.enqueue(handlers.async_cancels_itself)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
        assert (failed.status, failed.attempts) == (JobStatus.FAILED, 1)
        assert "CancelledError: by itself" in (failed.error or "")
        assert app.apply(handlers.coroutine, 1, timeout=20) == 2


def test_a_task_of_a_handler_that_exits_does_not_end_the_loop(app: Werk) -> None:
    with running(AsyncWorker, app, concurrency=1):
        assert app.apply(handlers.async_task_that_exits, timeout=20) == "went on"
        assert app.apply(handlers.coroutine, 1, timeout=20) == 2


def test_a_shield_holds_in_a_coroutine(app: Werk, notes: Notes) -> None:
    with running(AsyncWorker, app, concurrency=1):
        job = app.enqueue(handlers.async_shielded, _timeout=0.1)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
    assert "timed out" in (failed.error or "")
    assert notes.all() == ["shield ends"]


def test_a_coroutine_that_swallows_its_cancellation_is_left_behind_and_its_slot_is_free(
    app: Werk, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    with running(AsyncWorker, app, concurrency=1):
        job = app.enqueue(handlers.async_stubborn, "a", _timeout=0.2)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
        assert "timed out" in (failed.error or "")
        assert app.apply(handlers.coroutine, 1, timeout=20) == 2
    assert "did not stop: abandoning its task" in caplog.text
    assert "async_stubborn" in caplog.text


def test_a_handler_that_blocks_the_loop_does_not_make_the_worker_look_dead(
    app: Werk, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    """Its heartbeat comes from a thread of its own."""
    caplog.set_level(logging.WARNING, "pgwerk")
    seconds = 3.5 * app._app.liveness / 2.5
    with (
        running(AsyncWorker, app, concurrency=2),
        running(AsyncWorker, app, concurrency=2),
    ):
        living_workers(app, 2)
        job = app.enqueue(handlers.async_blocking, "a", seconds)
        assert job is not None
        done = app.wait_for(job, timeout=20)
    assert (done.status, done.attempts) == (JobStatus.COMPLETE, 1)
    assert notes.all() == ["start a"]
    assert "stopped sending heartbeats" not in caplog.text


@pytest.mark.postgres
def test_a_loop_that_stays_blocked_past_a_timeout_costs_the_worker_and_nothing_else(app: Werk, notes: Notes) -> None:
    worker = AsyncWorker(app, concurrency=2)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except WerkError as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    innocent = app.enqueue(handlers.async_nap, "innocent", 60)
    assert innocent is not None
    notes.wait("start innocent")
    job = app.enqueue(handlers.async_blocking, "blocks", 15, _timeout=0.2)
    assert job is not None
    failed = app.wait_for(job, timeout=14)
    assert "timed out" in (failed.error or "")
    eventually(lambda: app.get_job(innocent).status is JobStatus.QUEUED, 14)
    thread.join(20)
    assert "a handler blocks the event loop" in str(ended[0])
    assert str(job.id) in str(ended[0])


def test_a_stop_interrupts_functions_in_threads(app: Werk, notes: Notes) -> None:
    job = app.enqueue(handlers.long_nap, "a", 60)
    assert job is not None
    with running(AsyncWorker, app, shutdown_timeout=0.2):
        notes.wait("start a")
    assert app.get_job(job).status is JobStatus.QUEUED
