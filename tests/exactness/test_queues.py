"""In which order workers take jobs, paused queues, and bursts."""

from collections import Counter
from typing import Any

import psycopg
import pytest

from pgwerk import DatabaseError, DequeueStrategy, EnqueueParams, JobStatus, Retry, ThreadWorker, Werk
from tests.exactness import handlers
from tests.exactness.helpers import Outside, Start, enqueued, expect
from tests.fixtures.workers import Notes, burst, eventually, living_workers, thread_worker

pytestmark = pytest.mark.in_memory

ORDERED: dict[str, Any] = {"concurrency": 1, "queues": ["a", "b", "c"]}


def fill(app: Werk) -> None:
    for queue in "cba":
        app.enqueue_many(
            [EnqueueParams(handlers.noted, (f"{queue}{n}",), queue=queue, priority=n % 2) for n in range(4)]
        )


def test_by_priority_all_queues_are_one(app: Werk, notes: Notes) -> None:
    fill(app)
    burst(app, **ORDERED)
    told = notes.all()
    assert {what[1] for what in told[:6]} == {"1", "3"}
    assert told[:6] == ["c1", "c3", "b1", "b3", "a1", "a3"], "the most urgent first, among them the oldest"


def test_in_turns_no_queue_waits_for_another(app: Werk, notes: Notes) -> None:
    fill(app)
    burst(app, dequeue_strategy=DequeueStrategy.RoundRobin, **ORDERED)
    assert [what[0] for what in notes.all()] == list("abcabcabcabc")


def test_at_random_each_queue_comes_first_now_and_then(app: Werk, notes: Notes) -> None:
    for _ in range(12):
        fill(app)
        burst(app, dequeue_strategy=DequeueStrategy.Random, **ORDERED)
    told = notes.all()
    assert len(told) == 144
    assert len({told[start][0] for start in range(0, 144, 12)}) > 1


@pytest.mark.parametrize("strategy", list(DequeueStrategy))
def test_every_strategy_runs_every_job_once_over_processes(
    app: Werk, worker_process: Start, outside: Outside, strategy: DequeueStrategy
) -> None:
    names = ["a", "b", "c"]
    process = worker_process(processes=2, concurrency=4, queues=names, dequeue_strategy=strategy.value, burst=True)
    app.enqueue_many([EnqueueParams(handlers.noop, queue=names[n % 3], priority=n % 5) for n in range(300)])
    outside.ended(300)
    assert process.wait() == 0, process.output()
    assert outside.count("status = 'complete' and attempts = 1") == 300


def test_a_paused_queue_is_left_alone_by_every_worker_until_it_is_resumed(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    worker_process(processes=2, concurrency=2, queues=["a", "b"])
    living_workers(app, 2)
    app.pause_queue("a", "because of the test")
    held = [enqueued(app.enqueue(handlers.noted, "a", _queue="a", _priority=9)) for _ in range(5)]
    free = [enqueued(app.enqueue(handlers.noted, "b", _queue="b")) for _ in range(20)]
    for job in free:
        expect(app, job, JobStatus.COMPLETE)
    assert {app.get_job(job).status for job in held} == {JobStatus.QUEUED}
    (stats,) = [one for one in app.get_queue_stats() if one.queue == "a"]
    assert (stats.paused, stats.pause_reason) == (True, "because of the test")
    assert app.resume_queue("a") is True
    assert app.resume_queue("a") is False
    for job in held:
        expect(app, job, JobStatus.COMPLETE, seconds=8)


def test_what_runs_goes_on_when_its_queue_is_paused(app: Werk, notes: Notes) -> None:
    with thread_worker(app):
        job = enqueued(app.enqueue(handlers.until_noted, "a", "go"))
        notes.wait("start a")
        app.pause_queue("default")
        handlers.note("go")
        expect(app, job, JobStatus.COMPLETE)
        app.resume_queue("default")


def test_a_burst_ends_while_others_are_scheduled_paused_or_waiting_and_runs_retries_that_are_due(
    app: Werk, outside: Outside
) -> None:
    later = app.enqueue(handlers.noop, _delay=3600)
    ways: list[dict[str, Any]] = [{"_delay": 3600}, {"_queue": "paused"}, {"_depends_on": later}]
    for options in ways:
        _ = app.enqueue(handlers.noop, **options)
    app.pause_queue("paused")
    retried = enqueued(app.enqueue(handlers.writes_and_fails, 2, _retry=Retry(3, [0])))
    burst(app, queues=["default", "paused"])
    assert app.get_job(retried).status is JobStatus.COMPLETE
    assert Counter(row[0] for row in outside.sql("select status from {jobs}")) == {
        "scheduled": 2, "queued": 1, "waiting": 1, "complete": 1,
    }  # fmt: skip


@pytest.mark.postgres
def test_a_database_error_in_a_burst_is_an_error_and_not_an_empty_queue(app: Werk, outside: Outside) -> None:
    _ = app.enqueue(handlers.noop)
    name = app._app.names.table("jobs")[:-1] + '_refuse"'
    outside.sql(
        f"create function {name}() returns trigger language plpgsql as "
        "$$ begin raise exception 'refused by the test' using errcode = 'disk_full'; end $$"
    )
    outside.sql(f"create trigger refuse before insert on {{claims}} for each row execute function {name}()")
    with pytest.raises(DatabaseError, match="refused by the test"):
        burst(app)
    assert outside.count("status = 'queued'") == 1


def test_a_worker_can_run_again_after_it_stopped(app: Werk) -> None:
    worker = ThreadWorker(app, burst=True)
    for _ in range(3):
        job = enqueued(app.enqueue(handlers.noop))
        worker.run()
        assert app.get_job(job).status is JobStatus.COMPLETE


def test_stop_before_run_ends_the_run_at_once(app: Werk) -> None:
    worker = ThreadWorker(app)
    _ = app.enqueue(handlers.noop)
    worker.stop()
    worker.run()
    assert [w.status for w in app.list_workers()] == ["stopped"]


def test_jobs_that_arrive_while_a_worker_falls_asleep_are_not_overlooked(app: Werk, outside: Outside) -> None:
    """A producer decides by who sleeps whether to notify; polling would come after an hour."""
    with thread_worker(app, poll_interval=3600, sweep_interval=3600):
        for _ in range(150):
            assert app.apply(handlers.echo, 1, timeout=5) == 1
    eventually(lambda: outside.count("status = 'complete'") == 150)


BACKLOG = 3000


def backlog(app: Werk) -> None:
    """More than a worker of four threads does in a second."""
    _ = app.enqueue_many([EnqueueParams(handlers.nap, kwargs={"seconds": 0.002}) for _ in range(BACKLOG)])


@pytest.mark.postgres
def test_a_job_that_was_committed_late_is_found_in_the_midst_of_a_backlog(
    app: Werk, outside: Outside, dsn: str
) -> None:
    """Its place is in front of everything, where a busy worker has been already."""
    with psycopg.connect(dsn) as connection:
        late = enqueued(app.enqueue(handlers.noop, _conn=connection))
        backlog(app)
        with thread_worker(app, concurrency=4):
            eventually(lambda: outside.count("status = 'complete'") > BACKLOG // 10)
            connection.commit()
            expect(app, late, JobStatus.COMPLETE)
            assert outside.count("status = 'queued'") > BACKLOG // 4


def test_a_retry_in_the_midst_of_a_backlog_does_not_wait_for_its_end(app: Werk, outside: Outside) -> None:
    retried = enqueued(app.enqueue(handlers.writes_and_fails, 2, _retry=Retry(3, [0])))
    backlog(app)
    with thread_worker(app, concurrency=4):
        expect(app, retried, JobStatus.COMPLETE)
        assert outside.count("status = 'queued'") > BACKLOG // 4


def test_a_job_of_higher_priority_overtakes_a_backlog_within_a_claim(app: Werk, outside: Outside) -> None:
    backlog(app)
    with thread_worker(app, concurrency=4):
        eventually(lambda: outside.count("status = 'complete'") > BACKLOG // 10)
        urgent = enqueued(app.enqueue(handlers.noop, _priority=1))
        expect(app, urgent, JobStatus.COMPLETE)
        before = outside.one(
            "select count(*) from {jobs} j, {jobs} u where u.id = %s and j.id <> u.id"
            " and j.started_at > u.enqueued_at and j.started_at < u.started_at",
            urgent.id,
        )
    # What was claimed already, and one more claim: each is at most what runs and 50 ms of work.
    assert before <= 2 * (4 + 100)
