"""The prefork worker as real processes: drained, stopped twice, and killed without warning."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgwerk import JobStatus, Retry, Werk
from tests.fixtures.workers import Notes, WorkerProcess, eventually, living_workers
from tests.workers import handlers, holding

Start = Callable[..., WorkerProcess]


def complete(app: Werk) -> int:
    return sum(stats.counts.get("complete", 0) for stats in app.get_queue_stats())


def test_a_burst_over_two_processes_runs_everything_once(app: Werk, worker_process: Start, notes: Notes) -> None:
    names = [str(number) for number in range(60)]
    for name in names:
        app.enqueue(handlers.noted, name)
    process = worker_process(processes=2, concurrency=4, burst=True)
    assert process.wait() == 0, process.output()
    assert complete(app) == len(names), [
        (j.status, j.error, j.attempts) for j in app.list_jobs(limit=100) if j.status != "complete"
    ]
    assert sorted(notes.all(), key=int) == names


def test_term_drains_and_exits_cleanly(app: Werk, worker_process: Start, notes: Notes) -> None:
    process = worker_process(processes=2, concurrency=2)
    running = app.enqueue(handlers.slow, "a", 0.7)
    assert running is not None
    notes.wait("start a")
    waiting = app.enqueue(handlers.noop, _delay=3600)
    assert waiting is not None
    process.terminate()
    assert process.wait() == 0
    assert app.get_job(running).status is JobStatus.COMPLETE
    assert app.get_job(waiting).status is JobStatus.SCHEDULED
    assert {worker.status for worker in app.list_workers()} == {"stopped"}


def test_a_second_term_gives_back_at_once(app: Werk, worker_process: Start, notes: Notes) -> None:
    process = worker_process(processes=1, concurrency=2, shutdown_timeout=60)
    job = app.enqueue(handlers.long_nap, "a", 60)
    assert job is not None
    notes.wait("start a")
    process.terminate()
    eventually(lambda: "stopping" in process.output())
    started = time.monotonic()
    process.terminate()
    assert process.wait() == 0, process.output()
    assert time.monotonic() - started < 8
    given_back = app.get_job(job)
    assert (given_back.status, given_back.attempts) == (JobStatus.QUEUED, 0)


@pytest.mark.timing
@pytest.mark.parametrize("round_number", range(3))
def test_the_jobs_of_a_killed_child_run_again_within_a_second(
    app: Werk, worker_process: Start, notes: Notes, round_number: int
) -> None:
    process = worker_process(processes=2, concurrency=2, config={"heartbeat_interval": 10.0})
    living_workers(app, 2)
    job = app.enqueue(handlers.long_nap, "a", 1.5, _retry=Retry(3))
    assert job is not None
    notes.wait("start a")
    (victim,) = notes.pids("start a")
    assert victim in process.children()
    os.kill(victim, signal.SIGKILL)
    killed = time.time()
    notes.wait("start a", 2)
    assert notes.times("start a")[1] - killed < 1.0
    done = app.wait_for(job, timeout=20)
    assert (done.status, done.attempts, done.lost) == (JobStatus.COMPLETE, 1, 1)
    executions = app.get_executions(job)
    assert [e.status.value for e in executions] == ["failed", "complete"]
    assert "killed by SIGKILL" in (executions[0].error or "")
    eventually(lambda: len(process.children()) == 2, what="two children again")


@pytest.mark.slow
def test_the_jobs_of_a_killed_tree_run_within_three_heartbeats_on_another_worker(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    doomed = worker_process(processes=2, concurrency=2)
    living_workers(app, 2)
    jobs = [app.enqueue(handlers.long_nap, name, 2.0, _retry=Retry(3)) for name in ("a", "b")]
    notes.wait("start a")
    notes.wait("start b")
    worker_process(processes=1, concurrency=4)
    living_workers(app, 3)
    doomed.kill_tree()
    killed = time.time()
    for name in ("a", "b"):
        notes.wait(f"start {name}", 2)
        assert notes.times(f"start {name}")[1] - killed < 3 * 1.0 + 0.5
    for job in jobs:
        assert job is not None
        assert app.wait_for(job, timeout=20).status is JobStatus.COMPLETE


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_stuck_when_children_and_trees_are_killed_again_and_again(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    names = [str(number) for number in range(400)]
    for name in names:
        app.enqueue(handlers.noted, name, _retry=Retry(1, lost=30))
    survivor = worker_process(processes=2, concurrency=4)
    victims = [worker_process(processes=2, concurrency=4) for _ in range(2)]
    for round_number in range(6):
        eventually(lambda: complete(app) >= 10 * (round_number + 1), 60)  # noqa: B023  # called at once
        children = survivor.children()
        if children:
            os.kill(children[0], signal.SIGKILL)
        if round_number in (1, 3):
            victims.pop().kill_tree()
    eventually(lambda: complete(app) == len(names), 60, "all jobs complete")
    assert set(notes.all()) == set(names)
    stuck = app.list_jobs(status=["active", "aborting"])
    assert stuck == []


def test_a_job_that_kills_its_process_ends_as_failed_when_it_was_lost_too_often(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    poison = app.enqueue(handlers.kill_self, _retry=Retry(2))
    assert poison is not None
    worker_process(processes=1, concurrency=1)
    ended = app.wait_for(poison, timeout=30)
    assert (ended.status, ended.attempts, ended.lost) == (JobStatus.FAILED, 1, 4)
    assert "SIGKILL" in (ended.error or "")
    assert len(app.get_executions(poison)) == 4
    assert app.apply(handlers.add, 1, 2, timeout=30) == 3


@pytest.mark.parametrize("code", [7, 0, 78])
def test_a_handler_that_exits_the_process_is_lost_whatever_its_exit_code_means_to_us(
    app: Werk, worker_process: Start, notes: Notes, code: int
) -> None:
    job = app.enqueue(handlers.exit_hard, code, _retry=Retry(1, lost=1))
    assert job is not None
    worker_process(processes=1, concurrency=1)
    ended = app.wait_for(job, timeout=30)
    assert (ended.status, ended.attempts, ended.lost) == (JobStatus.FAILED, 1, 2)
    assert f"exited with {code}" in (ended.error or "")
    assert app.apply(handlers.add, 1, 2, timeout=30) == 3


def test_a_handler_that_cannot_be_stopped_costs_its_process_and_not_the_other_jobs(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    process = worker_process(processes=1, concurrency=2)
    (first,) = eventually(process.children)
    stubborn = app.enqueue(handlers.stubborn, 60, _timeout=0.2)
    assert stubborn is not None
    other = app.enqueue(handlers.long_nap, "other", 7)
    assert other is not None
    ended = app.wait_for(stubborn, timeout=20)
    assert ended.status is JobStatus.FAILED
    assert "timed out" in (ended.error or "")
    assert app.wait_for(other, timeout=20).status is JobStatus.COMPLETE
    eventually(lambda: process.children() not in ([], [first]), what="another child")
    assert app.apply(handlers.add, 1, 2, timeout=30) == 3


def test_usr1_shows_where_the_supervisor_and_its_children_are_also_one_that_is_stuck(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    process = worker_process(processes=2, concurrency=2)
    living_workers(app, 2)
    stuck = app.enqueue(holding.backtrack, "a", _timeout=60)
    assert stuck is not None
    notes.wait("start a")
    process.process.send_signal(signal.SIGUSR1)
    # Three processes write at once, a few words at a time: only single words are whole.
    eventually(lambda: process.output().count("most recent call first") >= 6, what="all threads of three processes")
    eventually(lambda: "backtrack" in process.output())
    eventually(lambda: "_supervise" in process.output())
    eventually(lambda: "_step" in process.output(), what="the coordinator of the other child")
    assert len(process.children()) == 2
    assert app.apply(handlers.add, 1, 2, timeout=20) == 3


def test_children_end_when_their_parent_is_killed(app: Werk, worker_process: Start, notes: Notes) -> None:
    process = worker_process(processes=2, concurrency=2)
    living_workers(app, 2)
    children = process.children()
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: not any(_alive(pid) for pid in children), what="the children's end")
    assert {worker.status for worker in app.list_workers()} == {"stopped"}


def test_a_worker_that_was_stopped_past_its_heartbeat_changes_nothing(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    process = worker_process(processes=1, concurrency=1)
    living_workers(app, 1)
    job = app.enqueue(handlers.long_nap, "a", 1.0, _retry=Retry(3), _on_success=handlers.on_end)
    assert job is not None
    notes.wait("start a")
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        second = worker_process(processes=1, concurrency=1)
        done = app.wait_for(job, timeout=20)
        assert (done.status, done.attempts) == (JobStatus.COMPLETE, 1)
    finally:
        os.killpg(process.pid, signal.SIGCONT)
    eventually(lambda: "no longer belongs to this worker" in process.output(), what="the lost job's log line")
    second.terminate()
    second.wait()
    notes.wait(f"callback long_nap complete {job.id}")
    assert app.get_job(job).attempts == 1
    assert [e.status.value for e in app.get_executions(job)] == ["failed", "complete"]
    assert notes.count(f"callback long_nap complete {job.id}") == 1


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_worker_waits_for_postgres_and_says_so_once(worker_process: Start, notes: Notes) -> None:
    process = worker_process(processes=1, dsn="postgresql://nobody@127.0.0.1:1/x")
    eventually(lambda: "Retrying until it works" in process.output())
    process.terminate()
    assert process.wait() == 0
    assert process.output().count("does not answer") == 1


def test_a_worker_without_tables_ends_with_the_reason(dsn: str, worker_process: Start, notes: Notes) -> None:
    process = worker_process(processes=2, auto_migrate=False)
    assert process.wait() == 1
    assert "werk migrate" in process.output()
    assert "its child processes cannot start" in process.output()
