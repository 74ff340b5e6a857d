"""Jobs in threads: what becomes of handlers of every kind."""

import subprocess
import sys
import threading
from datetime import UTC, datetime

import pytest

from pgwerk import JobStatus, JobTimeout, Repeat, Retry, Werk
from tests.fixtures.workers import Notes, burst, eventually, thread_worker
from tests.workers import handlers

pytestmark = pytest.mark.in_memory


def test_an_error_named_in_no_retry_fails_at_once(app: Werk) -> None:
    job = app.enqueue(handlers.fail, _retry=Retry(5, no_retry=(ArithmeticError, ValueError)))
    assert job is not None
    burst(app)
    assert app.get_job(job).attempts == 1


def test_a_function_that_does_not_exist_fails_with_the_reason(app: Werk) -> None:
    job = app.enqueue("no_such_module_here.function")
    assert job is not None
    burst(app)
    failed = app.get_job(job)
    assert failed.status is JobStatus.FAILED
    assert "no module 'no_such_module_here'" in (failed.error or "")


def test_a_coroutine_runs_in_a_thread(app: Werk) -> None:
    with thread_worker(app):
        assert app.map(handlers.coroutine, [{"value": i} for i in range(5)], timeout=20) == [1, 2, 3, 4, 5]


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
    with pytest.raises(JobTimeout, match=r"is still unfinished after 0\.2 s"):
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
        eventually(lambda: "finished 1 job in " in caplog.text)
    assert "threads, queues default" in caplog.text
    assert "stopped after 1 job" in caplog.text


def test_a_thread_that_gets_the_ident_of_one_left_behind_goes_on_working(
    app: Werk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system gives it to the next thread that starts once the other has ended."""
    monkeypatch.setattr("pgwerk.workers.crews.base.Crew.grace", 0.2)
    idents: set[int | None] = set()
    again = 0
    with thread_worker(app, concurrency=1):
        for _ in range(4):
            before = {thread for thread in threading.enumerate() if thread.name.startswith("werk-")}
            job = app.enqueue(handlers.stubborn, 2.5, _timeout=0.1)
            assert job is not None
            assert app.wait_for(job, timeout=20).status is JobStatus.FAILED
            assert app.apply(handlers.add, 1, 1, timeout=10) == 2
            eventually(lambda: sum(thread.is_alive() for thread in threading.enumerate() if thread in before) <= 2)  # noqa: B023
            now = {
                thread.ident for thread in threading.enumerate() if thread.name[:5] == "werk-" and thread not in before
            }
            again += bool(now & idents)
            idents |= {thread.ident for thread in before}
    if not again:
        pytest.skip("the system gave no ident to another thread, so that nothing was tested")
