"""Errors that nobody foresaw cost the job that causes them, and never the worker."""

import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from pgwerk import JobStatus, Retry, Werk, WerkConfig
from pgwerk._core.procedures import sweep
from pgwerk.workers.coordinating import coordinator as coordinators
from tests.exactness import handlers
from tests.exactness.helpers import Outside, enqueued, expect
from tests.fixtures.inside import inside
from tests.fixtures.workers import QUICK, Notes, eventually, living_workers, thread_worker

HASTY = {"heartbeat_interval": 0.4, "poll_interval": 0.3}


@pytest.fixture
def latin(dsn: str, schema: str) -> Iterator[Werk]:
    """An app whose database cannot store every character."""
    create = sql.SQL("create database {} encoding 'LATIN1' locale 'C' template template0").format(
        sql.Identifier(schema)
    )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(create)
    app = Werk(conninfo.make_conninfo(dsn, dbname=schema), schema=schema, config=WerkConfig(**QUICK))  # type: ignore[arg-type]
    try:
        app.connect()
        yield app
    finally:
        app.close()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(schema)))


def test_text_that_the_database_cannot_store_fails_one_job(latin: Werk) -> None:
    with thread_worker(latin, concurrency=4, **HASTY) as worker:
        good = [enqueued(latin.enqueue(handlers.echo, n)) for n in range(10)]
        returned = enqueued(latin.enqueue(handlers.in_euros, 1))
        raised = enqueued(latin.enqueue(handlers.fails_in_euros, _retry=Retry(2, [0])))
        for job in good:
            expect(latin, job, JobStatus.COMPLETE, attempts=1)
        failed = expect(latin, raised, JobStatus.FAILED, attempts=2)
        assert "no \\u20ac left" in (failed.error or "")
        ended = latin.wait_for(returned, timeout=20)
        assert ended.status is JobStatus.COMPLETE or "could not be stored" in (ended.error or "")
        assert latin.apply(handlers.echo, 1, timeout=20) == 1
        assert worker._coordinator is not None


def test_an_error_of_the_client_library_costs_one_job(
    app: Werk, notes: Notes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is sent about this job ends in an IndexError out of psycopg."""
    executor = inside(app).backend
    send = executor._send
    poison: list[str] = []

    def broken(connection: Any, statement: Any) -> Any:
        text = repr(statement.params)
        if poison and poison[0].replace("-", "") in text.replace("-", "") and "error" in statement.params:
            raise IndexError("pop from an empty deque")
        if poison and statement.params.get("id") == poison[0] and "reason" in statement.params:
            raise IndexError("pop from an empty deque")
        if poison and poison[0] in (statement.params.get("ids") or ()) and "statuses" in statement.params:
            raise IndexError("pop from an empty deque")
        return send(connection, statement)

    monkeypatch.setattr(executor, "_send", broken)
    with thread_worker(app, concurrency=4, **HASTY):
        bad = enqueued(app.enqueue(handlers.until_noted_fails, "bad", "go"))
        notes.wait("start bad")
        poison.append(bad.id)
        handlers.note("go")
        for number in range(10):
            assert app.apply(handlers.echo, number, timeout=20) == number
        eventually(lambda: "cannot write the outcome of job" in caplog.text)
        assert app.get_job(bad).status is JobStatus.ACTIVE
        poison.clear()
        expect(app, bad, JobStatus.FAILED)


def test_any_error_in_a_turn_is_survived(
    app: Werk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = iter([IndexError("pop"), RecursionError("deep"), UnicodeEncodeError("latin-1", "€", 0, 1, "no")])
    left: list[Exception] = []
    step = coordinators.Coordinator._step

    def failing(self: Any) -> bool:
        error = next(kinds, None)
        if error is not None:
            left.append(error)
            raise error
        return step(self)

    monkeypatch.setattr(coordinators.Coordinator, "_step", failing)
    with thread_worker(app, **HASTY):
        assert app.apply(handlers.echo, 1, timeout=20) == 1
        assert len(left) == 3
        assert len(living_workers(app)) == 1


def test_a_claimed_row_that_cannot_be_read_fails_and_the_others_run(
    app: Werk, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgwerk._core.claim import Claim
    from pgwerk._core.statements import claims

    jobs = [enqueued(app.enqueue(handlers.echo, number)) for number in range(20)]
    bad = jobs[7].id
    read = Claim

    def choosy(*args: Any, **kwargs: Any) -> Any:
        claim = read(*args, **kwargs)
        if any(one.id == bad for one in claim.jobs):
            raise OverflowError("date value out of range")
        return claim

    monkeypatch.setattr(claims, "Claim", choosy)
    with thread_worker(app, concurrency=4, **HASTY):
        for job in jobs:
            if job.id != bad:
                expect(app, job, JobStatus.COMPLETE, attempts=1)
        eventually(lambda: outside.count("status = 'failed'") == 1)
        assert "its row could not be read" in outside.one("select error from {jobs} where id = %s", bad)
        assert app.apply(handlers.echo, 1, timeout=20) == 1


# Tables that are gone -------------------------------------------------------------


def test_tables_that_were_dropped_are_told_of_once_and_answer_again_only_when_they_do(
    app: Werk, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgwerk.worker")
    with thread_worker(app, sweep_interval=0.5, **HASTY) as worker:
        assert app.apply(handlers.echo, 1, timeout=20) == 1
        outside.sql("alter table {jobs} rename to away")
        eventually(lambda: worker._coordinator is not None and worker._coordinator.session.failures >= 6)
        assert (caplog.text.count("retrying until it works"), caplog.text.count("answers again")) == (1, 0)
        away = outside.one("select c.oid::regclass::text from pg_class c where relname = 'away'")
        name = app._app.names.render("{jobs}", with_params=False).rpartition(".")[2]
        outside.sql(f"alter table {away} rename to {name}")
        assert app.apply(handlers.echo, 2, timeout=20) == 2
        eventually(lambda: caplog.text.count("answers again") == 1)
        assert caplog.text.count("retrying until it works") == 1


# Sweeps ---------------------------------------------------------------------------


def test_jobs_run_between_the_transactions_of_a_sweep(app: Werk, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much there is to sweep, a job waits for one batch of it."""
    done: list[int] = []
    over: list[bool] = []

    def endless(*args: Any, **_seen: Any) -> Any:
        swept = yield from sweep.recover(*args[:1])
        while not over:
            done.append(1)
            _ = yield from sweep.promote_due()
        return swept

    monkeypatch.setattr("pgwerk.workers.coordinating.duties.sweep.sweep", endless)
    with thread_worker(app, **HASTY):
        eventually(lambda: len(done) > 10)
        for number in range(5):
            before = len(done)
            assert app.apply(handlers.echo, number, timeout=20) == number
            eventually(lambda: len(done) > before)  # noqa: B023
        over.append(True)
