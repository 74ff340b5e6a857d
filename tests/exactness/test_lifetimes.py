"""How long things last: jobs longer than every interval, heartbeats of jobs, ttl, retention, failure modes."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgwerk import JobStatus, Retry, Werk, WerkConfig
from pgwerk._app.clock import new_id
from pgwerk._core.statements import claims, workers
from tests.exactness import handlers
from tests.exactness.helpers import Outside, Start, enqueued, expect
from tests.fixtures.workers import Notes, burst, eventually, living_workers, thread_worker

TINY = {"heartbeat_interval": 0.3, "poll_interval": 0.05, "sweep_interval": 0.05, "abort_interval": 0.05}


@pytest.mark.slow
def test_a_job_longer_than_every_interval_on_a_living_worker_is_started_once(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    for _ in range(2):
        worker_process(processes=1, concurrency=4, config={**TINY, "max_active_secs": 0.1})
    living_workers(app, 2)
    jobs = [enqueued(app.enqueue(handlers.named_nap, str(n), 2.5, _retry=Retry(5))) for n in range(4)]
    # Also one that lets nobody else run: the interpreter's lock is held by a thread that computes.
    jobs += [enqueued(app.enqueue(handlers.computes, "busy", 2.0, _retry=Retry(5), _heartbeat=1.5))]
    for job in jobs:
        expect(app, job, JobStatus.COMPLETE, attempts=1)
    assert len([what for what in notes.all() if what.startswith("start")]) == 5


def test_sweeps_by_hand_do_not_touch_what_runs(app: Werk, notes: Notes) -> None:
    with thread_worker(app):
        job = enqueued(app.enqueue(handlers.until_noted, "a", "go", _retry=Retry(5)))
        notes.wait("start a")
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: app.sweep(), range(12))) == [[]] * 12
        handlers.note("go")
        expect(app, job, JobStatus.COMPLETE, attempts=1)


def test_a_jobs_own_heartbeat_is_renewed_while_it_runs(app: Werk, notes: Notes, outside: Outside) -> None:
    with thread_worker(app, heartbeat_interval=0.2), thread_worker(app, heartbeat_interval=0.2):
        job = enqueued(app.enqueue(handlers.named_nap, "a", 1.5, _heartbeat=0.4, _retry=Retry(3)))
        notes.wait("start a")
        seen: set[object] = set()

        def renewed() -> bool:
            seen.add(app.get_job(job).touched_at)
            return len(seen) >= 4

        eventually(renewed)
        expect(app, job, JobStatus.COMPLETE, attempts=1)


def test_a_job_whose_heartbeat_stops_is_recovered_although_its_worker_is_not_yet_dead(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    """The worker's own heartbeat would have been missed only after 25 s."""
    process = worker_process(kind="thread", concurrency=1, config={"heartbeat_interval": 10})
    job = enqueued(app.enqueue(handlers.named_nap, "a", 1.0, _heartbeat=0.5, _retry=Retry(3)))
    notes.wait("start a")
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        with thread_worker(app, heartbeat_interval=0.3):
            expect(app, job, JobStatus.COMPLETE, attempts=2, seconds=10)
    finally:
        os.killpg(process.pid, signal.SIGCONT)
    eventually(lambda: "no longer belongs to this worker" in process.output())
    assert [e.status.value for e in app.get_executions(job)] == ["failed", "complete"]
    assert "not renewed for 0.5 s" in (app.get_executions(job)[0].error or "")


def test_touching_keeps_a_job_that_nobody_renews(app: Werk, outside: Outside) -> None:
    worker = new_id()
    app._runtime.backend.run(workers.register(worker, "by hand", ["default"], {}, 3600))
    job = enqueued(app.enqueue(handlers.noop, _heartbeat=0.5, _retry=Retry(2)))
    assert len(app._runtime.backend.run(claims.claim(["default"], 1, worker)).jobs) == 1
    outside.sql("update {jobs} set touched_at = now() - interval '1 s'")
    app.touch_job(job)
    assert app.sweep() == []
    outside.sql("update {jobs} set touched_at = now() - interval '1 s'")
    assert app.sweep() == [job.id]
    assert app.get_job(job).status is JobStatus.QUEUED


def test_a_job_that_was_not_started_in_time_never_starts(app: Werk, notes: Notes) -> None:
    job = enqueued(app.enqueue(handlers.noted, "a", _ttl=0.05, _on_stopped=handlers.on_end))
    later = enqueued(app.enqueue(handlers.noted, "b", _ttl=3600))
    eventually(lambda: app.get_job(job).expires_at is not None)
    with thread_worker(app, queues=["nobody"], sweep_interval=0.05):
        ended = expect(app, job, JobStatus.ABORTED, attempts=0)
    assert ended.error == "expired"
    burst(app)
    assert app.get_job(later).status is JobStatus.COMPLETE
    assert sorted(notes.all()) == sorted(["b", f"callback aborted {job.id}"])


def test_a_started_job_does_not_expire_and_the_ttl_of_a_delayed_one_counts_from_its_time(
    app: Werk, notes: Notes
) -> None:
    with thread_worker(app, sweep_interval=0.05):
        running = enqueued(app.enqueue(handlers.named_nap, "a", 0.6, _ttl=0.3))
        delayed = enqueued(app.enqueue(handlers.noted, "b", _ttl=0.4, _delay=0.5))
        expect(app, running, JobStatus.COMPLETE)
        expect(app, delayed, JobStatus.COMPLETE)


def test_ended_jobs_are_kept_as_long_as_they_were_asked_to(app: Werk, outside: Outside) -> None:
    gone = [
        enqueued(app.enqueue(handlers.noop, _result_ttl=0.05, _failure_ttl=3600)),
        enqueued(app.enqueue(handlers.fails, _result_ttl=3600, _failure_ttl=0.05)),
        enqueued(app.enqueue(handlers.noop, _result_ttl=0)),
    ]
    kept = [
        enqueued(app.enqueue(handlers.noop, _result_ttl=3600, _failure_ttl=0)),
        enqueued(app.enqueue(handlers.fails, _result_ttl=0, _failure_ttl=3600)),
        enqueued(app.enqueue(handlers.noop)),
        enqueued(app.enqueue(handlers.fails)),
    ]
    with thread_worker(app, sweep_interval=0.05):
        eventually(lambda: outside.count("id = any(%s::uuid[])", [job.id for job in gone]) == 0)
        outside.ended(len(kept))
    assert outside.count() == len(kept)
    assert outside.one("select count(distinct job_id) from {executions}") == len(kept)


def test_retention_can_be_a_habit_of_the_app(dsn: str, app: Werk, outside: Outside) -> None:
    other = Werk(dsn, schema=app.config.schema, config=WerkConfig(result_ttl=0, failure_ttl=0))
    try:
        _ = other.enqueue(handlers.noop)
        _ = other.enqueue(handlers.fails)
        kept = enqueued(other.enqueue(handlers.noop, _result_ttl=3600))
    finally:
        other.close()
    burst(app)
    _ = app.sweep()
    assert outside.sql("select id::text from {jobs}") == [(kept.id,)]


def test_a_failure_is_deleted_or_held_as_it_was_asked_to(app: Werk, outside: Outside) -> None:
    held = enqueued(app.enqueue(handlers.fails, _failure_mode="hold"))
    _ = app.enqueue(handlers.fails, _failure_mode="delete", _retry=Retry(3, [0]))
    fine = enqueued(app.enqueue(handlers.noop, _failure_mode="delete"))
    burst(app)
    assert {row[0] for row in outside.sql("select id::text from {jobs}")} == {held.id, fine.id}


def test_a_delay_that_is_due_while_the_worker_sleeps_wakes_it(app: Werk, outside: Outside) -> None:
    """No poll for an hour: only its own timer can do it."""
    with thread_worker(app, poll_interval=3600, sweep_interval=3600, heartbeat_interval=3600):
        _ = app.apply(handlers.noop, timeout=20)
        for job in [enqueued(app.enqueue(handlers.noop, _delay=delay)) for delay in (0.9, 0.5, 0.1)]:
            expect(app, job, JobStatus.COMPLETE)


@pytest.mark.timing
def test_a_delay_of_one_second_starts_at_one_to_one_point_fifteen_seconds(app: Werk, outside: Outside) -> None:
    with thread_worker(app):
        _ = app.apply(handlers.noop, timeout=20)
        jobs = [enqueued(app.enqueue(handlers.noop, _delay=1)) for _ in range(3)]
        for job in jobs:
            expect(app, job, JobStatus.COMPLETE)
    waited = [
        row[0] for row in outside.sql("select extract(epoch from started_at - enqueued_at) from {jobs} order by id")
    ][1:]
    assert all(1.0 <= seconds <= 1.15 for seconds in waited), waited
