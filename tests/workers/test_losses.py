"""Workers that are killed: what had not begun costs nothing, what had is run again, and poison ends."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from pgwerk import ConfigError, EnqueueParams, Job, JobStatus, Retry, Werk, WerkConfig
from tests.fixtures.workers import Notes, WorkerProcess, eventually
from tests.workers import handlers

Start = Callable[..., WorkerProcess]
JOBS = 400
FAST = {"heartbeat_interval": 0.3}


def complete(app: Werk) -> int:
    return sum(stats.counts.get("complete", 0) for stats in app.get_queue_stats())


def enqueue_plain(app: Werk) -> None:
    app.enqueue_many([EnqueueParams(handlers.slow, (str(number), 0.003)) for number in range(JOBS)])


def all_jobs(app: Werk) -> list[Job]:
    return app.list_jobs(limit=JOBS * 2)


def put(app: Werk, func: Callable[..., object], *args: object, **options: Any) -> Job:
    job: Job | None = app.enqueue(func, *args, **options)
    assert job is not None
    return job


def test_of_400_jobs_none_fails_when_a_child_is_killed_and_only_those_are_lost_that_had_begun(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    enqueue_plain(app)
    process = worker_process(processes=2, concurrency=4)
    eventually(lambda: len(notes.all()) > 60)
    victim = process.children()[0]
    # Nothing more happens in it from here on, so that the notes say what has begun.
    os.kill(victim, signal.SIGSTOP)
    mine = {what for what in set(notes.all()) if victim in notes.pids(what)}
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: complete(app) == JOBS, 60, "all jobs complete")
    jobs = all_jobs(app)
    assert {(job.status, job.attempts) for job in jobs} == {(JobStatus.COMPLETE, 1)}
    lost = {job.args[0] for job in jobs if job.lost}
    cut_off = {what[6:] for what in mine if what.startswith("start ") and f"end {what[6:]}" not in mine}
    assert cut_off <= lost
    # In each of its two threads, one may have begun without having come to its note.
    assert len([name for name in lost if f"start {name}" not in mine]) <= 2
    for job in jobs:
        executions = app.get_executions(job)
        assert [one.status.value for one in executions] == ["failed"] * job.lost + ["complete"]
        assert all("killed by SIGKILL" in (one.error or "") for one in executions[:-1])


def test_of_400_jobs_none_fails_and_none_is_lost_when_the_whole_tree_is_killed(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    enqueue_plain(app)
    doomed = worker_process(processes=2, concurrency=4, config=FAST)
    eventually(lambda: len(notes.all()) > 60)
    doomed.kill_tree()
    held = app.list_jobs(status="active", limit=JOBS)
    assert held
    worker_process(processes=2, concurrency=4, config=FAST)
    eventually(lambda: complete(app) == JOBS, 60, "all jobs complete")
    jobs = all_jobs(app)
    assert {(job.status, job.attempts, job.lost) for job in jobs} == {(JobStatus.COMPLETE, 1, 0)}
    for job in held:
        executions = app.get_executions(job)
        assert [one.status.value for one in executions] == ["failed", "complete"]
        assert "it may not have begun" in (executions[0].error or "")


def test_a_job_that_kills_whole_trees_is_poison_and_costs_its_neighbours_nothing(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    poison = put(app, handlers.kill_tree, "poison", _on_failure=handlers.on_end)
    behind = [put(app, handlers.add, 1, number) for number in range(20)]
    lives = 0
    while app.get_job(poison).status is not JobStatus.FAILED and lives < 12:
        process = worker_process(kind="thread", concurrency=1, config=FAST)
        lives += 1
        eventually(lambda: process.process.poll() is not None or app.get_job(poison).status is JobStatus.FAILED)  # noqa: B023  # called at once
    ended = app.get_job(poison)
    assert (ended.status, ended.lost, ended.attempts, notes.count("start poison")) == (JobStatus.FAILED, 4, 1, 5)
    assert "it was lost 4 times, and max_lost is 3" in (ended.error or "")
    assert [one.status.value for one in app.get_executions(poison)] == ["failed"] * 5
    for job in behind:
        done = app.wait_for(job, timeout=30)
        assert (done.status, done.attempts, done.lost) == (JobStatus.COMPLETE, 1, 0)
    notes.wait(f"callback kill_tree failed {poison.id}")


def test_jobs_that_run_beside_poison_are_lost_with_it_and_complete_all_the_same(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    first = put(app, handlers.kill_self)
    beside = [put(app, handlers.long_nap, f"nap {n}", 0.3) for n in range(3)]
    second = put(app, handlers.kill_self)
    behind = [put(app, handlers.add, 1, n) for n in range(20)]
    process = worker_process(processes=1, concurrency=4)
    for job in (*beside, *behind):
        assert app.wait_for(job, timeout=60).status is JobStatus.COMPLETE, process.output()
    for job in (first, second):
        ended = app.wait_for(job, timeout=60)
        assert (ended.status, ended.lost) == (JobStatus.FAILED, 4)


@pytest.mark.parametrize("config", [{"max_lost": 1}, None])
def test_max_lost_is_read_from_the_configuration_and_the_environment(
    app: Werk, worker_process: Start, notes: Notes, monkeypatch: pytest.MonkeyPatch, config: dict[str, int] | None
) -> None:
    if config is None:
        monkeypatch.setenv("PGWERK_MAX_LOST", "1")
    default, own = put(app, handlers.kill_self), put(app, handlers.kill_self, _retry=Retry(5, lost=0))
    worker_process(processes=1, concurrency=1, config=config or {})
    for job, lost in ((default, 2), (own, 1)):
        ended = app.wait_for(job, timeout=30)
        assert (ended.status, ended.lost) == (JobStatus.FAILED, lost)


def test_max_lost_is_stored_however_a_job_is_enqueued(app: Werk) -> None:
    task = app.task(retry=Retry(2, lost=5))(handlers.add)
    jobs = [
        put(app, handlers.noop),
        put(app, handlers.noop, _retry=Retry(3, lost=1)),
        task.enqueue(1, 2),
        task.options(retry=Retry(1, lost=0)).enqueue(1, 2),
        *app.enqueue_many([EnqueueParams(handlers.noop, retry=Retry(1, lost=7)), EnqueueParams(handlers.noop)]),
    ]
    assert [app.get_job(job).max_lost for job in jobs if job is not None] == [None, 1, 5, 0, 7, None]
    app.register_before_enqueue(_never_twice)
    assert app.get_job(put(app, handlers.noop)).max_lost == 0


def _never_twice(job: Job) -> None:
    job.max_lost = 0


@pytest.mark.parametrize("wrong", [-1, True, 1.5, "3", None])
def test_a_max_lost_that_makes_no_sense_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="max_lost"):
        WerkConfig(max_lost=wrong)  # type: ignore[arg-type]


def test_a_max_lost_in_the_environment_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGWERK_MAX_LOST", "many")
    with pytest.raises(ConfigError, match="PGWERK_MAX_LOST='many'"):
        WerkConfig.from_env()


@pytest.mark.parametrize("kills", ["child", "tree"])
def test_a_job_that_may_not_be_lost_runs_at_most_once(
    app: Werk, worker_process: Start, notes: Notes, kills: str
) -> None:
    once = Retry(1, lost=0)
    doomed = worker_process(processes=1, concurrency=1, config=FAST)
    began = put(app, handlers.long_nap, "began", 60, _retry=once)
    notes.wait("start began")
    waits = put(app, handlers.noted, "waits", _retry=once)
    if kills == "tree":
        doomed.kill_tree()
        worker_process(processes=1, concurrency=1, config=FAST)
    else:
        os.kill(doomed.children()[0], signal.SIGKILL)
    ended = app.wait_for(began, timeout=20)
    assert (ended.status, ended.attempts, ended.lost) == (JobStatus.FAILED, 1, 1)
    assert app.wait_for(waits, timeout=20).status is JobStatus.COMPLETE
    assert (notes.count("start began"), notes.count("waits")) == (1, 1)


def test_jobs_whose_beginning_is_written_down_run_in_order_among_others_and_beside_each_other(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    once = Retry(1, lost=0)
    app.enqueue_many([EnqueueParams(handlers.noted, (str(n),), retry=once if n % 3 == 0 else None) for n in range(60)])
    process = worker_process(kind="thread", concurrency=1, burst=True)
    assert process.wait() == 0, process.output()
    assert notes.all() == [str(n) for n in range(60)]
    notes.clear()
    naps = [put(app, handlers.long_nap, name, 60, _retry=once) for name in "abcd"]
    process = worker_process(kind="thread", concurrency=4, shutdown_timeout=0.1)
    for name in "abcd":
        notes.wait(f"start {name}")
    process.terminate()
    assert process.wait() == 0
    assert {app.get_job(job).status for job in naps} == {JobStatus.FAILED}, "each had its one time"


def test_a_job_that_is_to_begin_and_was_aborted_meanwhile_ends_aborted(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    worker_process(kind="thread", concurrency=2, config=FAST)
    first = put(app, handlers.until_stopping, "first")
    second = put(app, handlers.long_nap, "second", 60, _heartbeat=30)
    notes.wait("start second")
    for job in (first, second):
        assert app.abort_job(job)
    assert app.wait_for(second, timeout=20).status is JobStatus.ABORTED


# Give-backs are not free for ever -------------------------------------------------


@pytest.mark.slow
def test_a_job_that_outgrows_its_process_again_and_again_is_poison(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    job = put(app, handlers.large_nap, "large", 300, 60, _retry=Retry(1, lost=1))
    process = worker_process(processes=1, concurrency=2, max_rss="200M", shutdown_timeout=0.2)
    ended = app.wait_for(job, timeout=40)
    assert (ended.status, ended.lost, notes.count("start large")) == (JobStatus.FAILED, 2, 2), process.output()
    assert "its process used too much memory" in (ended.error or "")
    assert app.apply(handlers.add, 1, 2, timeout=30) == 3


@pytest.mark.parametrize("kind", ["prefork", "process", "fork"])
def test_a_job_that_kills_the_parent_of_its_process_is_poison(
    app: Werk, worker_process: Start, notes: Notes, kind: str
) -> None:
    job = put(app, handlers.kill_parent, "patricide", _retry=Retry(1, lost=1))
    lives = 0
    while app.get_job(job).status is not JobStatus.FAILED and lives < 6:
        process = worker_process(kind=kind, concurrency=1, shutdown_timeout=0.2, config=FAST)
        lives += 1
        eventually(lambda: process.process.poll() is not None or app.get_job(job).status is JobStatus.FAILED)  # noqa: B023  # called at once
        # The child of a dead supervisor gives back what it holds, and goes.
        eventually(lambda: app.get_job(job).status is not JobStatus.ACTIVE)
    ended = app.get_job(job)
    assert (ended.status, ended.lost, ended.attempts) == (JobStatus.FAILED, 2, 1)
    assert notes.count("start patricide") == 2
    worker_process(kind=kind, concurrency=1, config=FAST)
    assert app.apply(handlers.add, 1, 2, timeout=30) == 3


@pytest.mark.slow
def test_a_deployment_is_free_and_remembered(app: Werk, worker_process: Start, notes: Notes) -> None:
    job = put(app, handlers.long_nap, "long", 60)
    for count in range(1, 4):
        process = worker_process(processes=1, concurrency=1, shutdown_timeout=0.1)
        notes.wait("start long", count)
        process.terminate()
        assert process.wait() == 0
        given_back = app.get_job(job)
        assert (given_back.status, given_back.attempts, given_back.interrupted) == (JobStatus.QUEUED, 0, count)
