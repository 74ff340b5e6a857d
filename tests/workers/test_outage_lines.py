"""A worker that loses Postgres comes back by itself, and its log has one line for each change, not for each try."""

import logging
import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgwerk import Retry, ThreadWorker, Werk, WerkConfig
from pgwerk.embedded import Server, temporary
from tests.fixtures.workers import Notes, eventually, living_workers, thread_worker
from tests.workers import handlers

TROUBLE = "retrying until it works"
OVER = "answers again"
SETTINGS = {"heartbeat_interval": 0.3, "poll_interval": 0.3}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> "Lines":
    caplog.set_level(logging.INFO, "pgwerk.worker")
    return Lines(caplog)


class Lines:
    """What the worker has logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __call__(self, text: str) -> int:
        mine = [record for record in self._caplog.records if record.name == "pgwerk.worker"]
        return sum(text in record.getMessage() for record in mine)

    def alarming(self) -> list[str]:
        found = [record for record in self._caplog.records if record.name == "pgwerk.worker"]
        return [record.getMessage() for record in found if record.levelno >= logging.WARNING]


@pytest.fixture
def named(dsn: str, schema: str) -> Iterator[Werk]:
    """An app whose connections can be told from others."""
    app = Werk(f"{dsn}?application_name={schema}", schema=schema, config=WerkConfig(pool_size=2))
    app.connect()
    yield app
    app.close()


def tries(worker: ThreadWorker) -> int:
    """How often in a row the worker has failed."""
    coordinator = worker._coordinator
    return 0 if coordinator is None else coordinator.session.failures


def test_lost_connections(named: Werk, app: Werk, schema: str, pg: "psycopg.Connection[Any]", lines: Lines) -> None:
    with thread_worker(named, **SETTINGS):
        assert app.apply(handlers.add, 1, 1, timeout=20) == 2
        cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s"
        pg.execute(cut, [schema])
        eventually(lambda: lines(OVER) == 1)
        assert app.apply(handlers.add, 1, 2, timeout=20) == 3
        assert len(living_workers(app)) == 1
        assert (lines(TROUBLE), lines(OVER)) == (1, 1)
        assert len(lines.alarming()) <= 3, "the session's, and the listener's"


@pytest.mark.slow
def test_a_postgres_that_is_restarted(server: Server, schema: str, lines: Lines) -> None:
    app = Werk(server.dsn, schema=schema)
    try:
        app.connect()
        with thread_worker(app, **SETTINGS) as worker:
            assert app.apply(handlers.add, 1, 1, timeout=20) == 2
            for outage in (1, 2):
                server.stop("fast")
                eventually(lambda: tries(worker) >= 5, what="several tries")
                assert lines(TROUBLE) == outage
                server.start()
                eventually(lambda: lines(OVER) == outage)  # noqa: B023  # called at once
                assert app.apply(handlers.add, 1, 2, timeout=20) == 3
            assert (lines(TROUBLE), lines(OVER)) == (2, 2)
            assert lines("cannot listen") == lines("listening again") <= 2
            assert len([w for w in app.list_workers() if w.status == "active"]) == 1
    finally:
        app.close()


def test_a_row_that_was_dropped(
    app: Werk, schema: str, pg: "psycopg.Connection[Any]", notes: Notes, lines: Lines
) -> None:
    with thread_worker(app, **SETTINGS):
        living_workers(app)
        job = app.enqueue(handlers.long_nap, "a", 1.5, _retry=Retry(3))
        assert job is not None
        notes.wait("start a")
        for times in (1, 2):
            pg.execute(app._app.names.render("delete from {worker}", with_params=False).encode())
            eventually(lambda: lines("this worker's row was missing: registered it again") == times)  # noqa: B023
            living_workers(app)
        assert app.wait_for(job, timeout=20).attempts == 1
        assert (lines("registered it again"), lines(TROUBLE)) == (2, 0)


class Hog:
    """Takes every connection that can be had, until the block ends."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._held: list[psycopg.Connection[Any]] = []
        self._over = threading.Event()
        self.full = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._held.append(psycopg.connect(self._dsn, autocommit=True, application_name="hog"))
            except psycopg.OperationalError:
                self.full.set()

    def __enter__(self) -> "psycopg.Connection[Any]":
        self._thread.start()
        assert self.full.wait(20)
        return self._held[0]

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join(20)
        for connection in self._held:
            connection.close()


@pytest.mark.slow
def test_a_server_that_is_full(schema: str, lines: Lines) -> None:
    with temporary(settings={"max_connections": "12"}) as server:
        app = Werk(server.dsn, schema=schema)
        try:
            app.connect()
            with thread_worker(app, **SETTINGS) as worker:
                assert app.apply(handlers.add, 1, 1, timeout=20) == 2
                with Hog(server.dsn) as inside:
                    cut = (
                        "select pg_terminate_backend(pid) from pg_stat_activity "
                        "where backend_type = 'client backend' and application_name <> 'hog'"
                    )
                    inside.execute(cut)
                    eventually(lambda: tries(worker) >= 5, what="several tries")
                    assert (lines(TROUBLE), lines(OVER)) == (1, 0)
                eventually(lambda: lines(OVER) == 1)
                assert app.apply(handlers.add, 1, 2, timeout=20) == 3
                assert (lines(TROUBLE), lines(OVER)) == (1, 1)
                assert len([w for w in app.list_workers() if w.status == "active"]) == 1
        finally:
            app.close()


def test_a_listener_that_cannot_connect_is_tried_again_and_told_of_once(
    app: Werk, pg: "psycopg.Connection[Any]", lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgwerk.errors import ConnectionFailed
    from pgwerk.sync.listener import Listener

    connect = Listener.connect
    refused: list[bool] = []

    def refuse(listener: Listener) -> None:
        if app._app.names.wake_channel in listener._channels:
            refused.append(True)
            raise ConnectionFailed("nobody there")
        connect(listener)

    monkeypatch.setattr(Listener, "connect", refuse)
    with thread_worker(app, heartbeat_interval=0.2, poll_interval=3600):
        eventually(lambda: len(refused) > 4)
        assert lines("cannot listen, polling instead: nobody there") == 1
        monkeypatch.setattr(Listener, "connect", connect)
        eventually(lambda: lines("listening again") == 1)
        assert app.apply(handlers.add, 1, 1, timeout=20) == 2
