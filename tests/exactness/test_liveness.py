"""Who is dead: outages, locks of others, slow starts and hung threads make nobody run a living worker's job again."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgwerk import AsyncWorker, JobStatus, Werk
from pgwerk._app.clock import new_id
from pgwerk._core import stall
from pgwerk._core.statements import claims, workers
from pgwerk.embedded import Server
from pgwerk.workers.coordinating import coordinator as coordinators
from pgwerk.workers.coordinating import duties, heartbeats
from tests.exactness import handlers
from tests.exactness.helpers import Outside, Start, enqueued, expect
from tests.fixtures.inside import inside
from tests.fixtures.proxy import Proxy
from tests.fixtures.workers import Notes, eventually, living_workers, running, thread_worker
from tests.workers import handlers as more

HASTY = {"heartbeat_interval": 0.4, "poll_interval": 0.3}
LIVENESS = 1.0
"""Seconds, of hasty workers."""


@contextmanager
def holding(dsn: str, app: Werk, text: str, *params: Any) -> Iterator[None]:
    """A transaction of a stranger's that holds the locks of this command until the block ends."""
    with psycopg.connect(dsn, application_name="stranger") as connection:
        connection.execute(app._app.names.render(text, with_params=True).encode(), params)
        yield


def beats(outside: Outside) -> list[Any]:
    return [row[0] for row in outside.sql("select heartbeat_at from {worker} where status = 'active' order by id")]


def passes(outside: Outside, count: int, times: int) -> None:
    """Wait until each of *count* workers has sent so many heartbeats."""
    for _ in range(times):
        before = eventually(lambda: found if len(found := beats(outside)) == count else None)
        eventually(lambda: all(a > b for a, b in zip(beats(outside), before, strict=True)))  # noqa: B023


# Locks of others ------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [False, True])
def test_a_lock_on_one_row_holds_up_neither_heartbeats_nor_the_other_jobs(
    app: Werk, dsn: str, notes: Notes, outside: Outside, *, pooled: bool
) -> None:
    # Behind a pooler, no session keeps a setting.
    inside(app).backend._connector.prepare = not pooled
    with thread_worker(app, concurrency=4, **HASTY), thread_worker(app, concurrency=4, **HASTY):
        living_workers(app, 2)
        long = enqueued(app.enqueue(handlers.until_noted, "long", "go"))
        locked = enqueued(app.enqueue(handlers.until_noted, "locked", "end"))
        notes.wait("start long")
        notes.wait("start locked")
        with holding(dsn, app, "select from {jobs} where id = any(%s::uuid[]) for update", [locked.id, long.id]):
            handlers.note("end")
            for number in range(10):
                assert app.apply(handlers.echo, number, timeout=20) == number
            passes(outside, 2, 5)
            assert app.get_job(locked).status is JobStatus.ACTIVE
        expect(app, locked, JobStatus.COMPLETE, attempts=1)
        handlers.note("go")
        expect(app, long, JobStatus.COMPLETE, attempts=1)
    assert (notes.count("start long"), notes.count("start locked")) == (1, 1)
    outside.nothing_is_left_behind()


def test_a_locked_table_holds_up_no_heartbeat(app: Werk, dsn: str, notes: Notes, outside: Outside) -> None:
    with thread_worker(app, **HASTY), thread_worker(app, **HASTY):
        living_workers(app, 2)
        job = enqueued(app.enqueue(handlers.until_noted, "long", "go"))
        notes.wait("start long")
        with holding(dsn, app, "lock table {jobs} in access exclusive mode"):
            handlers.note("go")
            passes(outside, 2, 8)
        expect(app, job, JobStatus.COMPLETE, attempts=1)
        assert app.apply(handlers.echo, 1, timeout=20) == 1
    assert notes.count("start long") == 1


def test_a_lock_on_the_dependent_of_one_job_holds_up_no_other(
    app: Werk, dsn: str, notes: Notes, outside: Outside
) -> None:
    with thread_worker(app, concurrency=4, **HASTY):
        parents = [enqueued(app.enqueue(handlers.until_noted, f"p{n}", "go")) for n in range(3)]
        child = enqueued(app.enqueue(handlers.noted, "child", _depends_on=parents))
        for number in range(3):
            notes.wait(f"start p{number}")
        with holding(dsn, app, "select from {jobs} where id = %s for update", child.id):
            handlers.note("go")
            eventually(lambda: notes.count("end p2") == 1)
            for number in range(10):
                assert app.apply(handlers.echo, number, timeout=20) == number
        expect(app, child, JobStatus.COMPLETE)
    assert outside.count("status = 'complete' and attempts = 1") == 14


def test_a_lock_on_one_job_of_the_dead_holds_up_the_recovery_of_no_other(
    app: Werk, dsn: str, notes: Notes, outside: Outside
) -> None:
    dead = [new_id() for _ in range(2)]
    jobs = [enqueued(app.enqueue(handlers.noop, _retry=2)) for _ in range(4)]
    for worker in dead:
        app._runtime.backend.run(workers.register(worker, "by hand", ["default"], {}, 3600))
        assert len(app._runtime.backend.run(claims.claim(["default"], 2, worker)).jobs) == 2
    outside.sql("update {worker} set status = 'lost'")
    with thread_worker(app, **HASTY):
        with holding(dsn, app, "select from {jobs} where id = %s for update", jobs[0].id):
            for job in jobs[1:]:
                expect(app, job, JobStatus.COMPLETE)
            assert app.get_job(jobs[0]).status is JobStatus.ACTIVE
        expect(app, jobs[0], JobStatus.COMPLETE)
    outside.nothing_is_left_behind()


# Outages --------------------------------------------------------------------------


@pytest.mark.slow
def test_after_an_outage_longer_than_the_liveness_nobody_is_taken_for_dead(
    served: Werk, server: Server, served_worker: Start, notes: Notes
) -> None:
    for _ in range(3):
        served_worker(kind="thread", concurrency=2)
    living_workers(served, 3)
    jobs = [enqueued(served.enqueue(handlers.until_noted, f"long {n}", "go")) for n in range(6)]
    for number in range(6):
        notes.wait(f"start long {number}")
    for _ in range(2):
        server.stop("fast")
        time.sleep(3.5)
        server.start()
        assert served.sweep() == []
        with psycopg.connect(served.dsn, autocommit=True) as connection:
            outside = Outside(served, connection)
            eventually(lambda: outside.one("select count(*) from {worker} where status = 'active'") == 3)  # noqa: B023
            passes(outside, 3, 4)
    handlers.note("go")
    for job in jobs:
        expect(served, job, JobStatus.COMPLETE, attempts=1)
    assert [notes.count(f"start long {n}") for n in range(6)] == [1] * 6


@pytest.mark.slow
def test_a_network_that_is_silent_for_longer_than_the_liveness_makes_nobody_dead(
    server: Server, served: Werk, schema: str, served_worker: Start, notes: Notes
) -> None:
    with Proxy(served.dsn) as proxy:
        for _ in range(2):
            served_worker(dsn=proxy.dsn, kind="thread", concurrency=2)
        living_workers(served, 2)
        jobs = [enqueued(served.enqueue(handlers.until_noted, f"long {n}", "go")) for n in range(4)]
        for number in range(4):
            notes.wait(f"start long {number}")
        proxy.silence()
        with psycopg.connect(served.dsn, autocommit=True) as connection:
            outside = Outside(served, connection)
            expired = "select count(*) from {worker} where expires_at < now() - interval '1 s'"
            eventually(lambda: outside.one(expired) == 2)
            assert served.sweep() == [], "who has just come cannot know"
            proxy.speak()
            passes(outside, 2, 4)
        handlers.note("go")
        for job in jobs:
            expect(served, job, JobStatus.COMPLETE, attempts=1)
    assert [notes.count(f"start long {n}") for n in range(4)] == [1] * 4


@pytest.mark.slow
def test_the_jobs_of_a_worker_that_died_are_back_also_when_nobody_was_there_to_see_it(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    process = worker_process(kind="thread", concurrency=1, config=HASTY)
    job = enqueued(app.enqueue(handlers.until_noted, "long", "go", _retry=3))
    notes.wait("start long")
    process.kill_tree()
    eventually(lambda: outside.one("select count(*) from {worker} where expires_at < now()") == 1)
    with thread_worker(app, **HASTY):
        began = time.monotonic()
        notes.wait("start long", 2)
        assert time.monotonic() - began < 3 * LIVENESS + 2
        handlers.note("go")
        expect(app, job, JobStatus.COMPLETE)


@pytest.mark.slow
def test_sweeping_twice_finds_the_dead_without_any_worker(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    process = worker_process(kind="thread", concurrency=1)
    job = enqueued(app.enqueue(handlers.until_noted, "long", "go", _retry=3))
    notes.wait("start long")
    process.kill_tree()
    eventually(lambda: outside.one("select count(*) from {worker} where expires_at < now()") == 1)
    assert app.sweep() == []
    began = time.monotonic()
    assert eventually(app.sweep) == [job.id]
    assert time.monotonic() - began > 2.0, "it had its time to be heard of again"
    assert app.list_workers()[0].metadata.keys() == living_metadata(app), "no trace of it is shown"


def living_metadata(app: Werk) -> Any:
    with thread_worker(app, queues="none"):
        return next(worker for worker in living_workers(app) if worker.status == "active").metadata.keys()


@pytest.mark.slow
def test_a_server_process_that_hangs_costs_the_worker_its_connection_and_no_more(
    app: Werk, dsn: str, pg: "psycopg.Connection[Any]", notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinators, "ASKING_SECONDS", 1.0)
    with thread_worker(app, **HASTY) as worker:
        assert app.apply(handlers.echo, 1, timeout=20) == 1
        assert worker._coordinator is not None
        session: Any = worker._coordinator.session
        connection = session._connection
        assert connection is not None
        pid = connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            assert app.apply(handlers.echo, 2, timeout=20) == 2
        finally:
            os.kill(pid, signal.SIGCONT)
        assert len(living_workers(app)) == 1


# What is claimed and what is held -------------------------------------------------


def test_a_claim_that_a_worker_does_not_know_of_is_given_back_at_a_heartbeat(app: Werk, outside: Outside) -> None:
    """Its commit may come after the worker has looked for strays."""
    with thread_worker(app, queues="mine", **HASTY) as worker:
        living_workers(app)
        job = enqueued(app.enqueue(handlers.noop, _queue="other"))
        assert len(app._runtime.backend.run(claims.claim(["other"], 1, worker.id)).jobs) == 1
        eventually(lambda: app.get_job(job).status is JobStatus.QUEUED)
        assert app.get_job(job).attempts == 0
        assert app.get_executions(job) == []


def test_a_child_that_its_parent_reported_is_no_lost_worker(app: Werk, worker_process: Start, notes: Notes) -> None:
    process = worker_process(processes=2, concurrency=2)
    living_workers(app, 2)
    victim = process.children()[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: victim not in process.children() and len(process.children()) >= 2)
    eventually(lambda: {w.status for w in app.list_workers()} == {"active"} and len(app.list_workers()) == 2)


# Timeouts -------------------------------------------------------------------------


def test_the_time_of_a_job_begins_with_its_handler_whatever_blocks_the_loop(app: Werk, notes: Notes) -> None:
    with running(AsyncWorker, app, concurrency=4, **HASTY):
        blocking = enqueued(app.enqueue(more.async_blocking, "a", 2.0))
        others = [enqueued(app.enqueue(more.async_sleep, 0.01, _timeout=0.5)) for _ in range(3)]
        for job in (blocking, *others):
            expect(app, job, JobStatus.COMPLETE, attempts=1)


def test_others_do_not_count_the_time_in_which_a_job_could_not_begin(
    app: Werk, notes: Notes, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duties, "RESTART", 0.2)
    with running(AsyncWorker, app, concurrency=2, **HASTY):
        first = enqueued(app.enqueue(more.async_blocking, "a", 2.0))
        notes.wait("start a")
        late = enqueued(app.enqueue(more.async_sleep, 0.01, _timeout=60))
        claimed = eventually(lambda: outside.one("select started_at from {jobs} where id = %s", late.id))
        eventually(lambda: outside.one("select started_at from {jobs} where id = %s", late.id) > claimed, 1.5)
        assert not notes.count("end a")
        for job in (first, late):
            expect(app, job, JobStatus.COMPLETE, attempts=1)


# Who says that it lives -----------------------------------------------------------


def test_a_worker_whose_coordinator_hangs_does_not_say_that_it_lives(
    app: Werk, outside: Outside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stall, "LEAST", 0.5)
    hang, go_on = threading.Event(), threading.Event()
    step = coordinators.Coordinator._step

    def hanging(self: Any) -> bool:
        if hang.is_set():
            assert go_on.wait(60)
        return step(self)

    monkeypatch.setattr(coordinators.Coordinator, "_step", hanging)
    with thread_worker(app, **HASTY):
        living_workers(app)
        hang.set()
        _ = enqueued(app.enqueue(handlers.noop))
        eventually(lambda: outside.one("select count(*) from {worker} where expires_at < now()") == 1)
        assert "no more heartbeats" in caplog.text
        hang.clear()
        go_on.set()
        living_workers(app)
        assert app.apply(handlers.echo, 1, timeout=20) == 1


def test_an_error_in_the_thread_that_beats_does_not_end_it(
    app: Werk, outside: Outside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    send = heartbeats.HeartbeatThread._send
    failing = threading.Event()
    failed = threading.Event()

    def fragile(self: heartbeats.HeartbeatThread) -> None:
        if failing.is_set():
            failed.set()
            raise IndexError("pop from an empty deque")
        send(self)

    monkeypatch.setattr(heartbeats.HeartbeatThread, "_send", fragile)
    with thread_worker(app, **HASTY):
        living_workers(app)
        failing.set()
        assert failed.wait(20)
        failing.clear()
        passes(outside, 1, 2)
    assert "a heartbeat failed; retrying" in caplog.text


@pytest.mark.slow
def test_a_worker_needs_two_connections(app: Werk, dsn: str, schema: str, worker_process: Start) -> None:
    worker_process(dsn=f"{dsn}?application_name={schema}", kind="thread", concurrency=2, config={"pool": False})
    living_workers(app)
    assert app.apply(handlers.echo, 1, timeout=20) == 1
    with psycopg.connect(dsn, autocommit=True) as connection:
        count = "select count(*) from pg_stat_activity where application_name = %s"
        assert connection.execute(count, [schema]).fetchone() == (2,)


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_pooler_that_swallows_notifications_is_found_out_without_a_third_connection(
    app: Werk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, swallowed: bool
) -> None:
    from pgwerk.sync.listener import Listener
    from pgwerk.sync.worker_listener import PostgresWorkerListener

    proven = threading.Event()
    look = PostgresWorkerListener.look_for_proof

    def looked(self: PostgresWorkerListener, payload: str | None = None) -> None:
        if payload == "p":
            proven.set()
        look(self, None if swallowed else payload)

    class Swallowing(deque[str]):
        """Keeps nothing."""

        def append(self, _payload: str) -> None:
            """Swallow it."""

    monkeypatch.setattr(Listener, "_is_pooled", staticmethod(lambda _connection: True))
    monkeypatch.setattr(PostgresWorkerListener, "look_for_proof", looked)
    if swallowed:
        monkeypatch.setattr("pgwerk.sync.worker_listener.deque", Swallowing)
    with thread_worker(app, **HASTY):
        living_workers(app)
        if swallowed:
            eventually(lambda: "notifications do not arrive through the connection pooler" in caplog.text)
        else:
            assert proven.wait(20)
        assert app.apply(handlers.echo, 1, timeout=20) == 1
    assert ("do not arrive" in caplog.text) is swallowed
