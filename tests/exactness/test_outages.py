"""Postgres goes away, crashes and comes back; connections are cut: nothing acknowledged is lost, nobody is stuck."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import psycopg
import pytest

from pgwerk import EnqueueParams, JobStatus, Retry, Werk, WerkConfig
from pgwerk.embedded import Server
from pgwerk.errors import ConnectionFailed
from tests.exactness import handlers
from tests.exactness.helpers import Outside, Start, enqueued, expect
from tests.fixtures.inside import inside
from tests.fixtures.workers import QUICK, Notes, eventually, living_workers, thread_worker


class Producer:
    """Enqueues until told to stop; what was acknowledged is in `known`."""

    def __init__(self, app: Werk, pace: float = 0.002) -> None:
        self._app = app
        self._pace = pace
        self._over = threading.Event()
        self.known: list[str] = []
        self.refused = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        number = 0
        while not self._over.wait(self._pace):
            name = str(number := number + 1)
            try:
                job = self._app.enqueue(handlers.echo, name, _key=name, _retry=Retry(50, [0]))
            except ConnectionFailed:
                self.refused += 1
            else:
                self.known.append(enqueued(job).id)


def seen(app: Werk) -> "psycopg.Connection[Any]":
    return psycopg.connect(app.dsn, autocommit=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["stop", "immediate", "kill"])
def test_postgres_restarted_under_load_loses_nothing_and_every_worker_comes_back(
    served: Werk, server: Server, served_worker: Start, notes: Notes, way: str
) -> None:
    process = served_worker(processes=2, concurrency=4)
    living_workers(served, 2)
    long = enqueued(served.enqueue(handlers.named_nap, "long", 2.0, _retry=Retry(50)))
    notes.wait("start long")
    with Producer(served) as producer:
        for round_number in range(2):
            eventually(lambda: len(producer.known) > 60 * (round_number + 1))  # noqa: B023  # called at once
            if way == "kill":
                server.kill()
            else:
                server.stop("immediate" if way == "immediate" else "fast")
            refused = producer.refused
            eventually(lambda: producer.refused > refused)  # noqa: B023
            server.start()
        eventually(lambda: len(producer.known) > 300)
    with seen(served) as connection:
        outside = Outside(served, connection)
        outside.ended(len(producer.known) + 1)
        missing = set(producer.known) - {row[0] for row in outside.sql("select id::text from {jobs}")}
        assert missing == set()
        # Jobs that were stored without an answer to their producer are more than it knows of.
        eventually(lambda: outside.count("status in ('queued', 'scheduled', 'active')") == 0)
        assert outside.sql("select id::text, status, error from {jobs} where status <> 'complete'") == []
        assert app_works(served)
        outside.nothing_is_left_behind()
    # The handler went on through it all, on the same worker, once.
    assert (served.get_job(long).attempts, notes.count("start long")) == (1, 1)
    assert {w.status for w in served.list_workers()} == {"active"}
    process.terminate()
    assert process.wait() == 0, process.output()


def app_works(app: Werk) -> bool:
    return bool(app.apply(handlers.echo, 1, timeout=20) == 1)


def test_an_app_whose_whole_pool_is_dead_works_at_once_again(server: Server, schema: str) -> None:
    """More dead connections than an operation is tried."""
    app = Werk(server.dsn, schema=schema, config=WerkConfig(pool_size=10))
    try:
        app.connect()
        together = threading.Barrier(10)

        def use(_: int) -> None:
            with inside(app).backend._pool.lease() as connection:
                _ = together.wait(30)
                connection.execute("select 1")

        with ThreadPoolExecutor(10) as pool:
            _ = list(pool.map(use, range(10)))
        server.stop("fast")
        server.start()
        job = enqueued(app.enqueue(handlers.noop))
        assert app.get_job(job).status is JobStatus.QUEUED
        assert app.cancel_job(job)
    finally:
        app.close()


@pytest.mark.slow
def test_storms_of_terminated_connections_leave_nothing_stuck_and_no_job_run_twice_at_once(
    app: Werk, dsn: str, schema: str, notes: Notes, outside: Outside
) -> None:
    """The worker's own connections are cut all the time; claims whose answer was lost are given back."""
    named = f"{dsn}?application_name={schema}"
    cuts: list[int] = []
    over = threading.Event()

    def storm() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            cut = (
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s "
                "order by random() limit 1"
            )
            while not over.wait(random.uniform(0.01, 0.15)):
                cuts.append(len(connection.execute(cut, [schema]).fetchall()))

    stormy = Werk(named, schema=schema, config=WerkConfig(**QUICK))  # type: ignore[arg-type]
    calm = [EnqueueParams(handlers.noted, (str(n),), group=f"g{n % 7}" if n % 3 == 0 else None) for n in range(300)]
    jobs = [enqueued(job) for job in app.enqueue_many(calm)]
    jobs += [enqueued(app.enqueue(handlers.noted, "child", _depends_on=jobs[n])) for n in range(20)]
    thread = threading.Thread(target=storm)
    try:
        with thread_worker(stormy, concurrency=4):
            eventually(lambda: len(notes.all()) > 5)
            thread.start()
            eventually(lambda: len(notes.all()) > 250 and sum(cuts) > 15, 60)
            over.set()
            outside.ended(len(jobs))
            # Handlers ran on a living worker: each once, whatever became of its connections.
            assert {what: n for what, n in Counter(notes.all()).items() if n > 1} == {"child": 20}
            assert outside.count("status = 'complete' and attempts = 1") == len(jobs)
            outside.nothing_is_left_behind()
    finally:
        over.set()
        thread.join(10)
        stormy.close()


def test_a_worker_whose_listening_connection_is_cut_listens_again(
    app: Werk, pg: "psycopg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgwerk.sync.listener import Listener

    pids: list[int] = []
    connect = Listener.connect

    def noticed(listener: Listener) -> None:
        connect(listener)
        if app._app.names.wake_channel in listener._channels and listener._connection is not None:
            pids.append(listener._connection.info.backend_pid)

    monkeypatch.setattr(Listener, "connect", noticed)
    with thread_worker(app, poll_interval=3600, heartbeat_interval=3600):
        for cut in range(3):
            eventually(lambda: len(pids) == cut + 1)  # noqa: B023
            _ = app.apply(handlers.noop, timeout=20)
            pg.execute("select pg_terminate_backend(%s)", [pids[-1]])
        eventually(lambda: len(pids) == 4)
        assert app.apply(handlers.echo, 1, timeout=20) == 1


def test_a_worker_whose_row_and_whose_sleep_were_forgotten_registers_again(app: Werk, outside: Outside) -> None:
    with thread_worker(app, heartbeat_interval=0.2, poll_interval=3600, sweep_interval=3600):
        _ = app.apply(handlers.noop, timeout=20)
        outside.sql("truncate {worker}, {idle}")
        eventually(lambda: [w.status for w in app.list_workers()] == ["active"])
        eventually(lambda: outside.one("select count(*) from {idle}") == 1, what="the worker asks to be told")
        assert app.apply(handlers.echo, 1, timeout=5) == 1


def test_a_worker_that_was_taken_for_dead_while_it_slept_is_told_of_new_jobs(app: Werk, outside: Outside) -> None:
    with thread_worker(app, heartbeat_interval=0.3, poll_interval=3600, sweep_interval=3600):
        _ = app.apply(handlers.noop, timeout=20)
        eventually(lambda: outside.one("select count(*) from {idle}") == 1)
        outside.sql("update {worker} set expires_at = now() - interval '1 s'")
        _ = app.sweep()
        eventually(lambda: [w.status for w in app.list_workers()] == ["active"])
        eventually(lambda: outside.one("select count(*) from {idle}") == 1, what="the worker asks to be told")
        assert app.apply(handlers.echo, 1, timeout=5) == 1


@pytest.mark.slow
def test_unlogged_tables_of_workers_emptied_by_a_crash_cost_nothing(
    server: Server, schema: str, served_worker: Start, notes: Notes
) -> None:
    config = {**QUICK, "ephemeral_tables": True}
    app = Werk(server.dsn, schema=schema, config=WerkConfig(**config))  # type: ignore[arg-type]
    try:
        app.connect()
        for _ in range(2):
            served_worker(processes=1, concurrency=4, config=config)
        before = {worker.id for worker in living_workers(app, 2)}
        with seen(app) as connection:
            kinds = Outside(app, connection).sql(
                "select relname from pg_class where relpersistence = 'u' and relkind = 'r'"
                " and relnamespace = %s::regnamespace order by 1", schema,
            )  # fmt: skip
        assert [name for (name,) in kinds] == ["_pgwerk_idle", "_pgwerk_worker"]
        long = [enqueued(app.enqueue(handlers.named_nap, str(n), 4.0, _retry=Retry(5))) for n in range(3)]
        for number in range(3):
            notes.wait(f"start {number}")
        queued = [enqueued(app.enqueue(handlers.noted, f"later {n}", _delay=0.5)) for n in range(20)]
        server.kill()
        server.start()
        eventually(lambda: {worker.id for worker in living_workers(app, 2)} == before, what="the same two workers")
        for job in (*long, *queued):
            expect(app, job, JobStatus.COMPLETE, attempts=1)
        assert all(n == 1 for n in Counter(notes.all()).values())
        assert app_works(app)
    finally:
        app.close()


@pytest.mark.slow
def test_a_worker_that_died_in_the_crash_is_unknown_and_its_jobs_are_back_after_a_while(
    server: Server, schema: str, served_worker: Start, notes: Notes
) -> None:
    config = {**QUICK, "ephemeral_tables": True}
    app = Werk(server.dsn, schema=schema, config=WerkConfig(**config))  # type: ignore[arg-type]
    try:
        app.connect()
        doomed = served_worker(kind="thread", concurrency=2, config=config)
        job = enqueued(app.enqueue(handlers.die_once, "a", _retry=Retry(3)))
        held = enqueued(app.enqueue(handlers.named_nap, "b", 1.0, _retry=Retry(3)))
        notes.wait("a 1")
        _ = held
        assert doomed.wait() == 9
        server.kill()
        server.start()
        served_worker(processes=1, concurrency=2, config=config)
        expect(app, job, JobStatus.COMPLETE, attempts=1)
        began = time.monotonic()
        assert app.wait_for(held, timeout=20).status is JobStatus.COMPLETE
        assert time.monotonic() - began < 20
    finally:
        app.close()


def test_a_worker_started_before_postgres_waits_for_it(
    server: Server, served: Werk, served_worker: Start, notes: Notes
) -> None:
    job = enqueued(served.enqueue(handlers.noted, "a"))
    server.stop("fast")
    process = served_worker(processes=1, concurrency=1)
    eventually(lambda: "retrying until it works" in process.output() or "does not answer" in process.output())
    server.start()
    expect(served, job, JobStatus.COMPLETE)
