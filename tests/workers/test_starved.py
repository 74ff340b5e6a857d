"""A handler that holds the interpreter lock starves its process, not its heartbeat: no job runs twice or sticks."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgwerk import JobStatus, Retry, Werk
from pgwerk.embedded import Server
from tests.fixtures.workers import Notes, WorkerProcess, eventually, living_workers
from tests.workers import handlers, holding

Start = Callable[..., WorkerProcess]
QUICK = {"heartbeat_interval": 0.5}


def test_a_living_child_that_cannot_beat_keeps_its_jobs_while_another_worker_watches(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    starved = worker_process(processes=1, concurrency=2, config=QUICK)
    living_workers(app, 1)
    job = app.enqueue(holding.hold, "a", 5.0, _retry=Retry(3))
    assert job is not None
    notes.wait("start a")
    other = worker_process(processes=1, concurrency=2, config=QUICK)
    notes.wait("end a")
    done = app.wait_for(job, timeout=20)
    assert (done.status, done.attempts) == (JobStatus.COMPLETE, 1)
    assert notes.all() == ["start a", "end a"]
    eventually(lambda: "sends its own heartbeats again" in starved.output())
    assert starved.output().count("none of its threads can run") == 1
    assert "stopped sending heartbeats" not in other.output()
    assert len({w.id for w in app.list_workers() if w.status == "active"}) == 2


def test_the_parent_holds_no_connection_while_it_beats(
    app: Werk, pg: "psycopg.Connection[Any]", worker_process: Start, notes: Notes
) -> None:
    process = worker_process(processes=1, concurrency=1, config=QUICK)
    job = app.enqueue(holding.hold, "a", 2.5)
    assert job is not None
    eventually(lambda: "none of its threads can run" in process.output())
    assert not [fd for fd in Path(f"/proc/{process.pid}/fd").iterdir() if _is_socket(fd)]
    assert app.wait_for(job, timeout=20).attempts == 1


def _is_socket(fd: Path) -> bool:
    try:
        return str(fd.readlink()).startswith("socket:")
    except OSError:
        return False


@pytest.mark.parametrize("handler", [holding.hold, holding.hold_at_once, holding.backtrack])
def test_a_handler_that_cannot_be_timed_out_costs_its_process(
    app: Werk, worker_process: Start, notes: Notes, handler: Callable[..., Any]
) -> None:
    process = worker_process(processes=1, concurrency=2, config=QUICK, grace=0.5)
    living_workers(app, 1)
    (first,) = process.children()
    other = app.enqueue(handlers.long_nap, "other", 0.3, _retry=Retry(3, [0]))
    assert other is not None
    notes.wait("start other")
    arguments = ("a",) if handler is holding.backtrack else ("a", 60.0)
    job = app.enqueue(handler, *arguments, _timeout=0.5)
    assert job is not None
    failed = app.wait_for(job, timeout=20)
    assert (failed.status, failed.attempts) == (JobStatus.FAILED, 1)
    assert "its process was killed by SIGKILL" in (failed.error or "")
    assert re.search(r"child \d+ is stuck: .* past a timeout\. Killing it", process.output())
    assert app.wait_for(other, timeout=20).status is JobStatus.COMPLETE
    eventually(lambda: process.children() not in ([], [first]), what="another child")
    assert app.apply(handlers.add, 1, 2, timeout=30) == 3


def test_a_suspended_child_is_not_beaten_for_and_its_jobs_run_elsewhere(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    process = worker_process(processes=1, concurrency=1, config=QUICK)
    living_workers(app, 1)
    job = app.enqueue(handlers.long_nap, "a", 1.0, _retry=Retry(3), _timeout=0.9 * 60)
    assert job is not None
    notes.wait("start a")
    (child,) = process.children()
    os.kill(child, signal.SIGSTOP)
    stopped = time.time()
    try:
        worker_process(processes=1, concurrency=1, config=QUICK)
        notes.wait("start a", 2)
        done = app.wait_for(job, timeout=20)
        assert (done.attempts, len(app.get_executions(done))) == (1, 2)
    finally:
        os.kill(child, signal.SIGCONT)
    assert notes.times("start a")[1] - stopped > 0.5
    assert "none of its threads can run" not in process.output()
    eventually(lambda: len([w for w in app.list_workers() if w.status == "active"]) == 2, what="it is back")
    assert process.children() == [child]


@pytest.mark.slow
def test_a_postgres_that_is_away_while_a_child_is_starved_is_told_of_once(
    server: Server, schema: str, worker_process: Start, notes: Notes
) -> None:
    app = Werk(server.dsn, schema=schema)
    try:
        app.connect()
        process = worker_process(processes=1, concurrency=1, config=QUICK, dsn=server.dsn)
        job = app.enqueue(holding.hold, "a", 8.0, _retry=Retry(3))
        assert job is not None
        notes.wait("start a")
        server.stop("fast")
        eventually(lambda: "could not send a heartbeat on behalf of a child" in process.output())
        server.start()
        eventually(lambda: "heartbeats on behalf of children arrive again" in process.output())
        notes.wait("end a")
        assert app.wait_for(job, timeout=20, poll_interval=0.2).attempts == 1
        assert process.output().count("could not send a heartbeat") == 1
        assert process.output().count("arrive again") == 1
    finally:
        app.close()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_child_whose_coordinator_hangs_is_replaced_and_its_jobs_go_on(
    app: Werk, worker_process: Start, notes: Notes, processes: int
) -> None:
    process = worker_process(processes=processes, concurrency=2 * processes, config=QUICK)
    living_workers(app, processes)
    before = set(process.children())
    _ = app.enqueue(handlers.stops_the_coordinator)
    eventually(lambda: re.search(r"child (\d+) is stuck: .* sends no heartbeats", process.output()), 60)
    eventually(lambda: len(set(process.children()) - before) == 1 and len(process.children()) == processes, 30)
    assert app.apply(handlers.add, 1, 2, timeout=30) == 3
