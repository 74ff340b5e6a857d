"""Jobs in threads: what becomes of handlers of every kind."""

import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest

from pgwerk import ExecutionStatus, JobError, JobStatus, JobTimeout, Repeat, Retry, Werk
from tests.fixtures.workers import Notes, burst, eventually, thread_worker
from tests.workers import handlers


def test_a_job_runs_with_its_arguments_and_its_result_comes_back(app: Werk) -> None:
    job = app.enqueue(handlers.add, 1, b=2)
    assert job is not None
    burst(app)
    done = app.get_job(job)
    assert (done.status, done.result, done.attempts, done.worker_id) == (JobStatus.COMPLETE, 3, 1, None)
    (execution,) = app.get_executions(job)
    assert (execution.status, execution.attempt, execution.result) == (ExecutionStatus.COMPLETE, 1, 3)
    assert done.started_at is not None
    assert done.completed_at is not None
    assert done.started_at <= done.completed_at


def test_a_failing_job_is_retried_with_its_intervals_and_keeps_every_error(app: Werk) -> None:
    job = app.enqueue(handlers.flaky, 2, _retry=Retry(3, [0.05, 0.1]))
    assert job is not None
    with thread_worker(app):
        done = app.wait_for(job, timeout=20)
    assert (done.status, done.result, done.attempts, done.error) == (JobStatus.COMPLETE, 3, 3, None)
    executions = app.get_executions(job)
    assert [e.status.value for e in executions] == ["failed", "failed", "complete"]
    assert "attempt 1" in (executions[0].error or "")
    assert "RuntimeError: attempt 2" in (executions[1].error or "")


def test_a_job_whose_attempts_are_used_up_fails_with_its_traceback(app: Werk) -> None:
    job = app.enqueue(handlers.fail, "broken", _retry=Retry(2))
    assert job is not None
    burst(app)
    failed = app.get_job(job)
    assert failed.status is JobStatus.FAILED
    assert failed.attempts == 2
    assert "ValueError: broken" in (failed.error or "")
    assert "handlers.py" in (failed.error or "")


def test_an_error_named_in_no_retry_fails_at_once(app: Werk) -> None:
    job = app.enqueue(handlers.fail, _retry=Retry(5, no_retry=(ArithmeticError, ValueError)))
    assert job is not None
    burst(app)
    assert app.get_job(job).attempts == 1


@pytest.mark.parametrize("name", ["SystemExit", "KeyboardInterrupt", "CancelledError", "MemoryError", "GeneratorExit"])
def test_whatever_a_handler_raises_is_one_failed_attempt_and_the_worker_goes_on(app: Werk, name: str) -> None:
    with thread_worker(app, concurrency=1):
        job = app.enqueue(handlers.raises, name)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
        assert failed.status is JobStatus.FAILED
        assert failed.attempts == 1
        assert name in (failed.error or "")
        assert app.apply(handlers.add, 2, 2, timeout=20) == 4


def test_a_handler_that_exhausts_the_recursion_limit_fails(app: Werk) -> None:
    with thread_worker(app, concurrency=1), pytest.raises(JobError, match="RecursionError"):
        app.apply(handlers.recurse, timeout=20)


def test_a_function_that_does_not_exist_fails_with_the_reason(app: Werk) -> None:
    job = app.enqueue("no_such_module_here.function")
    assert job is not None
    burst(app)
    failed = app.get_job(job)
    assert failed.status is JobStatus.FAILED
    assert "no module 'no_such_module_here'" in (failed.error or "")


@pytest.mark.parametrize("value", ["123", "null", "", "ünï ☃", 0, False, [1, [2, {"a": None}]], 1e23, -0.5, 10**40])
def test_results_come_back_equal(app: Werk, value: object) -> None:
    with thread_worker(app):
        assert app.apply(handlers.echo, value, timeout=20) == value


def test_a_result_of_ten_megabytes_comes_back(app: Werk) -> None:
    with thread_worker(app):
        assert app.apply(handlers.big, 10_000_000, timeout=60) == "x" * 10_000_000


@pytest.mark.parametrize("handler", [handlers.set_result, handlers.object_result])
def test_a_result_that_cannot_be_stored_fails_with_the_reason(app: Werk, handler: object) -> None:
    with thread_worker(app), pytest.raises(JobError, match="cannot be encoded"):
        app.apply(handler, timeout=20)  # type: ignore[arg-type]


def test_a_coroutine_runs_in_a_thread(app: Werk) -> None:
    with thread_worker(app):
        assert app.map(handlers.coroutine, [{"value": i} for i in range(5)], timeout=20) == [1, 2, 3, 4, 5]


def test_a_timeout_interrupts_python_code(app: Werk, notes: Notes) -> None:
    with thread_worker(app, concurrency=1):
        job = app.enqueue(handlers.long_nap, "a", 30, _timeout=0.3)
        assert job is not None
        started = time.monotonic()
        failed = app.wait_for(job, timeout=20)
        assert time.monotonic() - started < 5
        assert failed.status is JobStatus.FAILED
        assert "timed out after 0.3 s" in (failed.error or "")
        assert "in nap" in (failed.error or ""), "the traceback shows where it was"
        assert app.apply(handlers.add, 1, 1, timeout=20) == 2


def test_a_timeout_cancels_the_running_query_and_leaves_the_connection_usable(app: Werk, notes: Notes) -> None:
    with thread_worker(app, concurrency=1):
        job = app.enqueue(handlers.query, 60, _timeout=0.3)
        assert job is not None
        started = time.monotonic()
        failed = app.wait_for(job, timeout=20)
        assert time.monotonic() - started < 5
    assert "timed out" in (failed.error or "")
    assert "after cancel (42,)" in notes.all()


def test_a_handler_that_ignores_its_timeout_loses_its_job_but_not_the_slot(app: Werk) -> None:
    with thread_worker(app, concurrency=1):
        job = app.enqueue(handlers.stubborn, 12, _timeout=0.2)
        assert job is not None
        failed = app.wait_for(job, timeout=10)
        assert failed.status is JobStatus.FAILED
        assert "timed out" in (failed.error or "")
        assert app.apply(handlers.add, 1, 1, timeout=10) == 2


def test_an_abort_interrupts_a_running_job(app: Werk, notes: Notes) -> None:
    with thread_worker(app, concurrency=2):
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


def test_stop_waits_for_what_runs_and_gives_back_what_does_not_end(app: Werk, notes: Notes) -> None:
    quick = app.enqueue(handlers.long_nap, "quick", 0.3)
    endless = app.enqueue(handlers.long_nap, "endless", 60)
    assert quick is not None
    assert endless is not None
    with thread_worker(app, concurrency=2, shutdown_timeout=1.0):
        notes.wait("start quick")
        notes.wait("start endless")
    assert app.get_job(quick).status is JobStatus.COMPLETE
    given_back = app.get_job(endless)
    assert given_back.status is JobStatus.QUEUED
    assert given_back.attempts == 0, "a give-back is not charged"
    assert given_back.worker_id is None
    burst_job = app.get_executions(endless)
    assert [e.status.value for e in burst_job] == ["aborted"]


def test_a_second_stop_gives_back_at_once(app: Werk, notes: Notes) -> None:
    job = app.enqueue(handlers.long_nap, "a", 60)
    assert job is not None
    with thread_worker(app, shutdown_timeout=60) as worker:
        notes.wait("start a")
        started = time.monotonic()
        worker.stop()
        worker.stop()
        eventually(lambda: app.get_job(job).status is JobStatus.QUEUED, 10)
        assert time.monotonic() - started < 5


def test_a_handler_sees_that_its_worker_stops(app: Werk, notes: Notes) -> None:
    job = app.enqueue(handlers.until_stopping, "a")
    assert job is not None
    with thread_worker(app):
        notes.wait("start a")
    assert app.get_job(job).status is JobStatus.COMPLETE


@pytest.mark.timing
def test_a_delayed_job_starts_when_it_is_due(app: Werk) -> None:
    with thread_worker(app):
        app.apply(handlers.noop, timeout=20)
        job = app.enqueue(handlers.started_at, _delay=1)
        assert job is not None
        assert job.status is JobStatus.SCHEDULED
        enqueued = datetime.now(UTC)
        done = app.wait_for(job, timeout=20)
        after = (datetime.fromisoformat(done.result) - enqueued).total_seconds()
        assert 0.95 <= after <= 1.25


def test_progress_is_stored_while_the_job_runs(app: Werk) -> None:
    job = app.enqueue(handlers.with_progress)
    assert job is not None
    burst(app)
    done = app.get_job(job)
    assert done.progress == {"fraction": 0.5, "message": "half"}


def test_hooks_see_the_job_and_its_error(app: Werk) -> None:
    seen: list[str] = []
    job = app.enqueue(handlers.fail, "for hooks")
    assert job is not None
    from pgwerk import ThreadWorker

    worker = ThreadWorker(
        app,
        burst=True,
        before_process=[lambda ctx: seen.append(f"before {ctx.job.id == job.id}")],
        after_process=[lambda ctx: seen.append(f"after {ctx.exception}")],
    )
    worker.push_exception_handler(lambda _job, _exc: seen.append("first"))
    worker.push_exception_handler(lambda _job, exc: seen.append(f"last {exc}"))
    worker.run()
    assert seen == ["before True", "last for hooks", "first", "after for hooks"]


def test_a_burst_ends_when_nothing_is_queued(app: Werk) -> None:
    app.map  # noqa: B018  # for the reader: nothing else is running
    for number in range(300):
        app.enqueue(handlers.echo, number)
    burst(app)
    assert [s.counts for s in app.get_queue_stats()] == [{"complete": 300}]


def test_only_the_named_queues_are_worked(app: Werk) -> None:
    mine = app.enqueue(handlers.noop, _queue="mine")
    other = app.enqueue(handlers.noop, _queue="other")
    assert mine is not None
    assert other is not None
    burst(app, queues=["mine"])
    assert app.get_job(mine).status is JobStatus.COMPLETE
    assert app.get_job(other).status is JobStatus.QUEUED


def test_a_repeating_job_runs_again_as_jobs_of_their_own_and_the_key_moves_on(app: Werk) -> None:
    job = app.enqueue(handlers.add, 1, 1, _repeat=Repeat(2, 0.05), _key="again", _meta={"a": 1})
    assert job is not None
    with thread_worker(app):
        eventually(lambda: [s.counts.get("complete") for s in app.get_queue_stats()] == [3])
    jobs = app.list_jobs()
    assert len(jobs) == 3
    assert [j.result for j in jobs] == [2, 2, 2]
    assert [j.meta for j in jobs] == [{"a": 1}] * 3
    assert sorted(j.key or "" for j in jobs) == ["", "", "again"]
    assert sorted(j.repeat_remaining or 0 for j in jobs) == [0, 1, 2]


def test_two_workers_in_one_process_share_the_work(app: Werk, notes: Notes) -> None:
    with thread_worker(app, concurrency=2), thread_worker(app, concurrency=2):
        barrier = threading.Event()
        for number in range(40):
            app.enqueue(handlers.noted, str(number))
        eventually(lambda: len(notes.all()) >= 40)
        barrier.set()
    assert sorted(notes.all(), key=int) == [str(number) for number in range(40)]


def test_waiting_times_out_and_the_job_goes_on(app: Werk) -> None:
    job = app.enqueue(handlers.noop)
    assert job is not None
    with pytest.raises(JobTimeout, match=r"did not end within 0\.2 s"):
        app.wait_for(job, timeout=0.2)
    assert app.get_job(job).status is JobStatus.QUEUED


def test_a_job_run_in_place_for_longer_than_its_liveness_is_not_run_by_anybody_else(
    dsn: str, schema: str, notes: Notes
) -> None:
    slow = Werk(dsn, schema=schema, config={"heartbeat_interval": 0.2})
    slow.connect()
    with thread_worker(slow):
        done = slow.enqueue(handlers.long_nap, "in place", 1.2, _sync=True, _retry=3)
    assert done is not None
    assert (done.status, done.attempts) == (JobStatus.COMPLETE, 1)
    assert notes.all() == ["start in place", "end in place"]
    slow.close()


PROFILED = """
import sys, threading
threading.setprofile(lambda *_: None)
from pgwerk import ThreadWorker, Werk
app = Werk(sys.argv[1], schema=sys.argv[2])
late = app.enqueue("tests.workers.handlers.nap", 30, _timeout=0.2)
ThreadWorker(app, concurrency=1, burst=True).run()
numbers = [app.enqueue("tests.workers.handlers.add", 1, n) for n in range(20)]
ThreadWorker(app, concurrency=1, burst=True).run()
print(app.get_job(late).status, [app.get_job(job).result for job in numbers] == list(range(1, 21)))
"""


def test_a_worker_that_is_profiled_survives_a_timeout(dsn: str, schema: str) -> None:
    """On Python 3.11, taking back an exception by raising nothing makes every profiled thread spin for ever."""
    ran = subprocess.run(
        [sys.executable, "-c", PROFILED, dsn, schema], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout.split() == ["failed", "True"], ran.stderr


def test_what_a_worker_does_shows_at_info(app: Werk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pgwerk")
    with thread_worker(app):
        app.apply(handlers.add, 1, 1, timeout=20)
        eventually(lambda: "1 jobs ended" in caplog.text)
    assert "threads, queues default" in caplog.text
    assert "stopped after 1 jobs" in caplog.text
