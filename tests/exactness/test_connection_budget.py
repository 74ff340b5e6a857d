"""What happens when Postgres refuses connections, or when those of a role, a server or a pooler are used up."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo, sql

from pgwerk import ConfigError, ThreadWorker, Werk, WerkConfig, aio
from pgwerk._postgres.connecting import hopeless, used_up
from pgwerk.embedded import Server, temporary
from pgwerk.errors import ConnectionFailed, JobTimeout
from tests.exactness import handlers
from tests.exactness.helpers import enqueued
from tests.fixtures.pgbouncer import hold, pgbouncer
from tests.fixtures.workers import eventually, living_workers, running

ROOT = Path(__file__).resolve().parents[2]
KINDS = ["sync", "aio", "sync without pool", "aio without pool"]


class Caller:
    """An app of either face, called from here."""

    def __init__(self, kind: str, dsn: str, schema: str, **settings: Any) -> None:
        pool = None if "without" not in kind else False
        self.runner = asyncio.Runner() if kind.startswith("aio") else None
        self.app: Any = (aio.Werk if self.runner else Werk)(dsn, schema=schema, pool=pool, **settings)

    def do(self, name: str, *args: Any, **kwargs: Any) -> Any:
        found = getattr(self.app, name)(*args, **kwargs)
        return self.runner.run(found) if self.runner else found

    def close(self) -> None:
        self.do("close")
        if self.runner:
            self.runner.close()


@pytest.fixture(params=KINDS)
def caller(request: pytest.FixtureRequest) -> Iterator[Callable[..., Caller]]:
    with ExitStack() as stack:

        def make(dsn: str, schema: str, **settings: Any) -> Caller:
            made = Caller(request.param, dsn, schema, **settings)
            stack.callback(made.close)
            return made

        yield make


@contextmanager
def timed(least: float, most: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert least <= took <= most, took


# Refused ----------------------------------------------------------------------------


def test_a_refused_enqueue_fails_in_two_seconds_with_the_reason_and_works_again_at_once(
    server: Server, schema: str, caller: Callable[..., Caller]
) -> None:
    one = caller(server.dsn, schema)
    assert one.do("enqueue", handlers.noop)
    server.stop("fast")
    for _ in range(2):
        with timed(0, 5), pytest.raises(ConnectionFailed, match="refused"):
            one.do("enqueue", handlers.noop)
    server.start()
    with timed(0, 2):
        assert one.do("enqueue", handlers.noop)


@pytest.mark.parametrize(("seconds", "least", "most"), [(0, 0, 0.9), (1.2, 0.6, 3.5)])
def test_the_time_is_a_setting(
    schema: str, caller: Callable[..., Caller], seconds: float, least: float, most: float
) -> None:
    one = caller("postgresql://u:secret@127.0.0.1:9/x", schema, pool_timeout=seconds)
    with timed(least, most), pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9/x") as caught:
        one.do("enqueue", handlers.noop)
    assert "secret" not in str(caught.value)


def test_an_outage_within_that_time_is_not_seen(server: Server, schema: str, caller: Callable[..., Caller]) -> None:
    one = caller(server.dsn, schema, pool_timeout=30)
    one.do("connect")
    server.stop("fast")
    with ThreadPoolExecutor(1) as thread:
        later = thread.submit(one.do, "enqueue", handlers.noop)
        with pytest.raises(TimeoutError):
            later.result(0.5)
        server.start()
        assert later.result(30)


def test_what_trying_again_does_not_change_fails_at_once(dsn: str, schema: str, caller: Callable[..., Caller]) -> None:
    one = caller(conninfo.make_conninfo(dsn, dbname="no_such"), schema, pool_timeout=60)
    with timed(0, 5), pytest.raises(ConnectionFailed, match="no_such"):
        one.do("enqueue", handlers.noop)


def test_the_setting_comes_from_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Werk("postgresql://x/y").config.pool_timeout == 2.0
    monkeypatch.setenv("PGWERK_POOL_TIMEOUT", "0.5")
    assert Werk("postgresql://x/y").config.pool_timeout == 0.5
    assert aio.Werk("postgresql://x/y", config={"pool_timeout": 3}).config.pool_timeout == 3
    assert Werk("postgresql://x/y", config=WerkConfig(pool_timeout=3), pool_timeout=4).config.pool_timeout == 4
    for wrong in (-1, float("nan"), float("inf"), "2", True):
        with pytest.raises(ConfigError, match="pool_timeout"):
            _ = WerkConfig(pool_timeout=wrong)  # type: ignore[arg-type]


# Used up ----------------------------------------------------------------------------


@pytest.fixture
def limited(pg: psycopg.Connection, dsn: str, schema: str) -> Iterator[str]:
    """The DSN of a role that may have three connections, and owns the schema."""
    role = f"r_{schema}"
    name = sql.Identifier(role)
    pg.execute(sql.SQL("create role {} login password 'pw' connection limit 3").format(name))
    pg.execute(sql.SQL("create schema {} authorization {}").format(sql.Identifier(schema), name))
    yield conninfo.make_conninfo(dsn, user=role, password="pw")
    pg.execute("select pg_terminate_backend(pid, 2000) from pg_stat_activity where usename = %s", [role])
    pg.execute(sql.SQL("drop owned by {} cascade").format(name))
    pg.execute(sql.SQL("drop role {}").format(name))


def test_a_role_without_connections_left_says_which_limit_to_raise(
    limited: str, schema: str, caller: Callable[..., Caller]
) -> None:
    one = caller(limited, schema)
    one.do("connect")
    one.do("close")
    held = [psycopg.connect(limited) for _ in range(3)]
    try:
        with timed(0, 5), pytest.raises(ConnectionFailed, match=r"of this role .*CONNECTION LIMIT.*pool_size"):
            one.do("enqueue", handlers.noop)
    finally:
        for connection in held:
            connection.close()
    assert one.do("enqueue", handlers.noop)


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_more_threads_or_tasks_than_the_role_may_connect_share_what_there_is(
    limited: str, schema: str, face: str
) -> None:
    config = WerkConfig(pool_size=10)
    app = Werk(limited, schema=schema, config=config)
    app.connect()
    if face == "aio":
        app._runtime.backend.close()

        async def many() -> list[Any]:
            jobs = await asyncio.gather(*(app.aio.enqueue(handlers.noop) for _ in range(60)))
            await app.aio.close()
            return jobs

        assert all(asyncio.run(many()))
    else:
        jobs: list[Any] = []
        threads = [threading.Thread(target=lambda: jobs.append(app.enqueue(handlers.noop))) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(jobs) == 30
        assert all(jobs)
    app.close()


def test_a_worker_keeps_no_connection_of_the_app(limited: str, schema: str, pg: psycopg.Connection) -> None:
    """Two of its own are all that it has, so a role of three is enough to work and to enqueue."""
    app = Werk(limited, schema=schema)
    app.connect()
    app.close()
    other = Werk(limited, schema=schema)
    with running(ThreadWorker, other, concurrency=2):
        assert app.apply(handlers.echo, 1, timeout=30) == 1
        _ = living_workers(app)
        app.close()
        row = pg.execute("select count(*) from pg_stat_activity where usename = %s", [f"r_{schema}"]).fetchone()
        assert row is not None
        assert row[0] <= 2
    other.close()
    app.close()


def test_a_full_server_is_said_to_be_full(schema: str, tmp_path: Path) -> None:
    settings = {"max_connections": "8", "superuser_reserved_connections": "3"}
    with temporary(settings=settings) as server, psycopg.connect(server.dsn, autocommit=True) as root:
        root.execute("create role poor login password 'pw'")
        root.execute(sql.SQL("create schema {} authorization poor").format(sql.Identifier(schema)))
        dsn = conninfo.make_conninfo(server.dsn, user="poor", password="pw")
        app = Werk(dsn, schema=schema)
        app.connect()
        app.close()
        held: list[psycopg.Connection] = []
        with suppress(psycopg.OperationalError):
            while True:
                held.append(psycopg.connect(dsn))
        with timed(0, 5), pytest.raises(ConnectionFailed, match="max_connections"):
            _ = app.enqueue(handlers.noop)
        done = info(dsn, schema, seconds=20)
        assert done.returncode == 1
        assert "max_connections" in done.stderr
        held.pop().close()
        assert app.enqueue(handlers.noop).id
        for one in held:
            one.close()
        app.close()


def info(dsn: str, schema: str, seconds: float) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "pgwerk.cli", "info", "--dsn", dsn, "--schema", schema],
        capture_output=True, text=True, timeout=seconds, cwd=ROOT, check=False,
    )  # fmt: skip


def test_what_the_refusals_mean() -> None:
    role = psycopg.OperationalError('connection failed: FATAL:  too many connections for role "app"')
    assert "ALTER ROLE" in (used_up(role) or "")
    assert not hopeless(role)
    assert "max_client_conn" in (
        used_up(psycopg.OperationalError("no more connections allowed (max_client_conn)")) or ""
    )
    gone = psycopg.OperationalError('connection failed: FATAL:  database "x" does not exist')
    assert used_up(gone) is None
    assert hopeless(gone)
    assert not hopeless(psycopg.OperationalError("connection failed: Connection refused"))
    assert "used up" in (used_up(psycopg.errors.TooManyConnections("zu viele Verbindungen")) or "")


# PgBouncer --------------------------------------------------------------------------


def test_five_server_connections_of_a_pooler_are_enough(dsn: str, schema: str, tmp_path: Path) -> None:
    with pgbouncer(dsn, tmp_path, default_pool_size="5") as through:
        app = Werk(through, schema=schema)
        with running(ThreadWorker, app, concurrency=4):
            assert app.map(handlers.echo, [{"value": n} for n in range(20)], timeout=60) == list(range(20))
        app.close()


def test_a_pooler_without_connections_left_is_not_waited_for_in_silence(
    dsn: str, schema: str, tmp_path: Path, caller: Callable[..., Caller]
) -> None:
    with pgbouncer(dsn, tmp_path, default_pool_size="2") as through:
        one = caller(through, schema)
        assert one.do("enqueue", handlers.noop)
        fresh = caller(through, schema)
        held = hold(through, 2)
        try:
            with timed(0, 12), pytest.raises(ConnectionFailed, match="default_pool_size"):
                fresh.do("enqueue", handlers.noop)
            with timed(0, 8), pytest.raises((ConnectionFailed, JobTimeout), match="default_pool_size"):
                one.do("apply", handlers.noop, timeout=3)
            done = info(through, schema, seconds=30)
            assert done.returncode == 1
            assert "default_pool_size" in done.stderr
        finally:
            for connection in held:
                connection.close()
        assert one.do("enqueue", handlers.noop)


def test_a_pooler_that_takes_no_more_clients_says_so(
    dsn: str, schema: str, tmp_path: Path, caller: Callable[..., Caller]
) -> None:
    with pgbouncer(dsn, tmp_path, max_client_conn="3") as through:
        one = caller(through, schema)
        held = [psycopg.connect(through) for _ in range(3)]
        try:
            with timed(0, 6), pytest.raises(ConnectionFailed, match="max_client_conn"):
                one.do("enqueue", handlers.noop)
        finally:
            for connection in held:
                connection.close()
        assert one.do("enqueue", handlers.noop)


def test_a_worker_told_to_stop_does_not_wait_for_a_pooler(
    dsn: str, schema: str, tmp_path: Path, worker_process: Callable[..., Any]
) -> None:
    with pgbouncer(dsn, tmp_path, default_pool_size="2") as through:
        held = hold(through, 2)
        process = worker_process(dsn=through, kind="thread")
        eventually(lambda: "default_pool_size" in process.output(), 30, "a word about what is missing")
        process.terminate()
        with timed(0, 12):
            assert process.wait(30) in (0, 1)
        for connection in held:
            connection.close()


def test_waiting_for_one_that_is_blocked_ends_in_time(app: Werk, schema: str, dsn: str) -> None:
    """A look that hangs (somebody has locked the table) is not waited for beyond the timeout."""
    job = enqueued(app.enqueue(handlers.noop))
    with psycopg.connect(dsn) as locker:
        _ = locker.execute(sql.SQL("lock table {}").format(sql.Identifier(schema, "_pgwerk_jobs")))
        with timed(0.9, 6), pytest.raises(JobTimeout, match=job.id):
            _ = app.wait_for(job, timeout=1)
        with timed(0.9, 6), pytest.raises(JobTimeout, match=job.id):
            asyncio.run(app.aio.wait_for(job, timeout=1))
