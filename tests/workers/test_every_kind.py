"""What becomes of jobs of every sort, whoever runs them: threads, processes, coroutines."""

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

import pgwerk
from pgwerk import Context, ExecutionStatus, JobError, JobStatus, Retry, Werk
from tests.fixtures.workers import Notes, burst, eventually, living_workers, running
from tests.workers import handlers

Kind = Callable[..., Any]


@pytest.fixture(params=["ThreadWorker", "AsyncWorker", "ProcessWorker", "ForkWorker"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """A class of workers."""
    found: Kind = getattr(pgwerk, request.param)
    return found


def test_a_job_runs_with_its_arguments_and_its_result_comes_back(app: Werk, kind: Kind) -> None:
    job = app.enqueue(handlers.add, 1, b=2)
    assert job is not None
    burst(app, kind)
    done = app.get_job(job)
    assert (done.status, done.result, done.attempts, done.worker_id) == (JobStatus.COMPLETE, 3, 1, None)
    (execution,) = app.get_executions(job)
    assert (execution.status, execution.attempt, execution.result) == (ExecutionStatus.COMPLETE, 1, 3)
    assert done.started_at is not None
    assert done.completed_at is not None
    assert done.started_at <= done.completed_at


def test_a_failing_job_is_retried_with_its_intervals_and_keeps_every_error(app: Werk, kind: Kind) -> None:
    job = app.enqueue(handlers.flaky, 2, _retry=Retry(3, [0.05, 0.1]))
    assert job is not None
    with running(kind, app):
        done = app.wait_for(job, timeout=20)
    assert (done.status, done.result, done.attempts, done.error) == (JobStatus.COMPLETE, 3, 3, None)
    executions = app.get_executions(job)
    assert [e.status.value for e in executions] == ["failed", "failed", "complete"]
    assert "attempt 1" in (executions[0].error or "")
    assert "RuntimeError: attempt 2" in (executions[1].error or "")


def test_a_job_whose_attempts_are_used_up_fails_with_its_traceback(app: Werk, kind: Kind) -> None:
    job = app.enqueue(handlers.fail, "broken", _retry=Retry(2))
    assert job is not None
    burst(app, kind)
    failed = app.get_job(job)
    assert failed.status is JobStatus.FAILED
    assert failed.attempts == 2
    assert "ValueError: broken" in (failed.error or "")
    assert "handlers.py" in (failed.error or "")


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "CancelledError", "MemoryError", "GeneratorExit"])
def test_whatever_a_handler_raises_is_one_failed_attempt_and_the_worker_goes_on(
    app: Werk, kind: Kind, name: str
) -> None:
    with running(kind, app, concurrency=1):
        job = app.enqueue(handlers.raises, name)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
        assert failed.status is JobStatus.FAILED
        assert failed.attempts == 1
        assert name in (failed.error or "")
        assert app.apply(handlers.add, 2, 2, timeout=20) == 4


def test_a_handler_that_exhausts_the_recursion_limit_fails(app: Werk, kind: Kind) -> None:
    with running(kind, app, concurrency=1), pytest.raises(JobError, match="RecursionError"):
        app.apply(handlers.recurse, timeout=20)


@pytest.mark.parametrize("value", ["123", "null", "", "ünï ☃", 0, False, [1, [2, {"a": None}]], 1e23, -0.5, 10**40])
def test_results_come_back_equal(app: Werk, kind: Kind, value: object) -> None:
    with running(kind, app):
        assert app.apply(handlers.echo, value, timeout=20) == value


def test_a_result_of_ten_megabytes_comes_back(app: Werk, kind: Kind) -> None:
    with running(kind, app):
        assert app.apply(handlers.big, 10_000_000, timeout=60) == "x" * 10_000_000


@pytest.mark.parametrize("handler", [handlers.set_result, handlers.object_result])
def test_a_result_that_cannot_be_stored_fails_with_the_reason(
    app: Werk, kind: Kind, handler: Callable[..., object]
) -> None:
    with running(kind, app), pytest.raises(JobError, match="cannot be encoded"):
        app.apply(handler, timeout=20)


def test_a_timeout_interrupts_python_code(app: Werk, kind: Kind, notes: Notes) -> None:
    with running(kind, app, concurrency=1):
        job = app.enqueue(handlers.long_nap, "a", 30, _timeout=0.3)
        assert job is not None
        started = time.monotonic()
        failed = app.wait_for(job, timeout=20)
        assert time.monotonic() - started < 5
        assert failed.status is JobStatus.FAILED
        assert "timed out after 0.3 s" in (failed.error or "")
        assert "in nap" in (failed.error or ""), "the traceback shows where it was"
        assert app.apply(handlers.add, 1, 1, timeout=20) == 2


def test_a_timeout_is_enforced_when_it_is_over_however_the_worker_waits(app: Werk, kind: Kind) -> None:
    """The worker has just gone to sleep when the handler begins, or is just about to."""
    late = []
    with running(kind, app, concurrency=2):
        app.apply(handlers.add, 1, 1, timeout=20)
        for _ in range(12):
            job = app.enqueue(handlers.nap, 30, _timeout=0.1)
            assert job is not None
            failed = app.wait_for(job, timeout=20)
            assert "timed out after 0.1 s" in (failed.error or "")
            assert failed.started_at is not None
            assert failed.completed_at is not None
            late.append((failed.completed_at - failed.started_at).total_seconds() - 0.1)
    assert sorted(late)[-2] < 0.2, late


def test_a_timeout_is_enforced_while_the_worker_waits_for_the_lock_of_somebody_else(
    app: Werk, kind: Kind, notes: Notes, dsn: str
) -> None:
    with running(kind, app, concurrency=2):
        patient = app.enqueue(handlers.timed_nap, "b", 30, _timeout=3600)
        assert patient is not None
        notes.wait("start b")
        job = app.enqueue(handlers.timed_nap, "a", 30, _timeout=0.5)
        assert job is not None
        with psycopg.connect(dsn) as stranger:
            notes.wait("start a")
            lock = app._app.names.render("lock table {jobs} in access exclusive mode", with_params=False)
            stranger.execute(lock.encode())
            notes.wait("end a")
        (begun,), (ended,) = notes.times("start a"), notes.times("end a")
        assert ended - begun < 0.75
        failed = app.wait_for(job, timeout=20)
        assert app.abort_job(patient)
    assert failed.status is JobStatus.FAILED
    assert "timed out after 0.5 s" in (failed.error or "")


def test_a_timeout_cancels_the_running_query_and_leaves_the_connection_usable(
    app: Werk, kind: Kind, notes: Notes
) -> None:
    with running(kind, app, concurrency=1):
        job = app.enqueue(handlers.query, 60, _timeout=0.3)
        assert job is not None
        started = time.monotonic()
        failed = app.wait_for(job, timeout=20)
        assert time.monotonic() - started < 5
    assert "timed out" in (failed.error or "")
    assert "after cancel (42,)" in notes.all()


def test_a_handler_that_ignores_its_timeout_loses_its_job_but_not_the_slot(app: Werk, kind: Kind) -> None:
    with running(kind, app, concurrency=1):
        job = app.enqueue(handlers.stubborn, 12, _timeout=0.2)
        assert job is not None
        failed = app.wait_for(job, timeout=10)
        assert failed.status is JobStatus.FAILED
        assert "timed out" in (failed.error or "")
        assert app.apply(handlers.add, 1, 1, timeout=10) == 2


def test_an_abort_interrupts_a_running_job(app: Werk, kind: Kind, notes: Notes) -> None:
    with running(kind, app, concurrency=2):
        job = app.enqueue(handlers.long_nap, "a", 30, _retry=3)
        assert job is not None
        notes.wait("start a")
        started = time.monotonic()
        assert app.abort_job(job)
        aborted = app.wait_for(job, timeout=20)
        assert time.monotonic() - started < 3
    assert aborted.status is JobStatus.ABORTED
    assert aborted.error == "aborted"
    assert "end a" not in notes.all()
    assert app.abort_job(job) is False


def test_stop_waits_for_what_runs_and_gives_back_what_does_not_end(app: Werk, kind: Kind, notes: Notes) -> None:
    quick = app.enqueue(handlers.long_nap, "quick", 0.3)
    endless = app.enqueue(handlers.long_nap, "endless", 60)
    assert quick is not None
    assert endless is not None
    with running(kind, app, concurrency=2, shutdown_timeout=1.0):
        notes.wait("start quick")
        notes.wait("start endless")
    assert app.get_job(quick).status is JobStatus.COMPLETE
    given_back = app.get_job(endless)
    assert given_back.status is JobStatus.QUEUED
    assert given_back.attempts == 0, "a give-back is not charged"
    assert given_back.worker_id is None
    burst_job = app.get_executions(endless)
    assert [e.status.value for e in burst_job] == ["aborted"]


def test_a_second_stop_gives_back_at_once(app: Werk, kind: Kind, notes: Notes) -> None:
    job = app.enqueue(handlers.long_nap, "a", 60)
    assert job is not None
    with running(kind, app, shutdown_timeout=60) as worker:
        notes.wait("start a")
        started = time.monotonic()
        worker.stop()
        worker.stop()
        eventually(lambda: app.get_job(job).status is JobStatus.QUEUED, 10)
        assert time.monotonic() - started < 5


def test_a_handler_sees_that_its_worker_stops(app: Werk, kind: Kind, notes: Notes) -> None:
    job = app.enqueue(handlers.until_stopping, "a")
    assert job is not None
    with running(kind, app):
        notes.wait("start a")
    assert app.get_job(job).status is JobStatus.COMPLETE


def test_progress_is_stored_while_the_job_runs(app: Werk, kind: Kind) -> None:
    job = app.enqueue(handlers.with_progress)
    assert job is not None
    burst(app, kind)
    done = app.get_job(job)
    assert done.progress == {"fraction": 0.5, "message": "half"}


def test_a_burst_ends_when_nothing_is_queued(app: Werk, kind: Kind) -> None:
    app.map  # noqa: B018  # for the reader: nothing else is running
    for number in range(300):
        app.enqueue(handlers.echo, number)
    burst(app, kind)
    assert [s.counts for s in app.get_queue_stats()] == [{"complete": 300}]


def test_a_coroutine_runs(app: Werk, kind: Kind) -> None:
    with running(kind, app):
        assert app.map(handlers.coroutine, [{"value": i} for i in range(5)], timeout=20) == [1, 2, 3, 4, 5]


def test_hooks_run_around_the_handler(app: Werk, kind: Kind, notes: Notes) -> None:
    job = app.enqueue(handlers.fail, "for hooks")
    assert job is not None
    worker = kind(app, burst=True, before_process=[note_before], after_process=[note_after])
    worker.push_exception_handler(note_first)
    worker.push_exception_handler(note_last)
    worker.run()
    assert notes.all() == [f"before {job.id}", "last for hooks", "first ValueError", "after for hooks"]
    assert "for hooks" in (app.get_job(job).error or "")


def note_before(ctx: Context) -> None:
    handlers.note(f"before {ctx.job.id}")


async def note_after(ctx: Context) -> None:
    handlers.note(f"after {ctx.exception}")


def note_first(_job: Any, error: BaseException) -> None:
    handlers.note(f"first {type(error).__name__}")


async def note_last(_job: Any, error: BaseException) -> None:
    handlers.note(f"last {error}")


def test_callbacks_get_the_job_that_ended(app: Werk, kind: Kind, notes: Notes) -> None:
    good = app.enqueue(handlers.add, 1, 2, _on_success=handlers.on_end)
    bad = app.enqueue(handlers.fail, _on_failure=handlers.on_end_ctx)
    assert good is not None
    assert bad is not None
    with running(kind, app):
        notes.wait(f"callback add complete {good.id}")
        notes.wait(f"ctx callback failed {bad.id}")


def test_what_a_worker_is_shows_in_its_row(app: Werk, kind: Kind) -> None:
    with running(kind, app, concurrency=3, queues=["a", "b"]):
        (worker,) = living_workers(app)
        assert worker.metadata["worker_type"] == kind.__name__.removesuffix("Worker").lower()
        assert (worker.metadata["concurrency"], worker.metadata["queues"]) == (3, ["a", "b"])
    assert [worker.status for worker in app.list_workers()] != ["active"]


def test_a_shield_puts_off_a_timeout_to_its_end(app: Werk, kind: Kind, notes: Notes) -> None:
    with running(kind, app, concurrency=1):
        job = app.enqueue(handlers.shielded, 0.6, _timeout=0.2)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
    assert failed.status is JobStatus.FAILED
    assert "timed out" in (failed.error or "")
    assert notes.all() == ["shield ends"]


def test_a_startup_hook_runs_where_handlers_run(app: Werk, kind: Kind) -> None:
    app.disconnect()
    app.on_startup(handlers.remember_start)
    with running(kind, app):
        assert app.apply(handlers.was_started, timeout=20) is True
