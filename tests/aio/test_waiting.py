"""wait_for, apply and map of an asyncio app: woken by the end itself, over one connection a loop."""

import asyncio
import time
from functools import partial
from typing import Any

import psycopg
import pytest

from pgwerk import EnqueueError, JobError, JobNotFound, JobStatus, JobTimeout
from pgwerk.aio import Werk
from pgwerk.aio.listener import Listener
from pgwerk.aio.runtime import Runtime
from tests.aio import handlers
from tests.exactness.handlers import until_noted
from tests.fixtures.inside import inside
from tests.fixtures.loops import working
from tests.fixtures.waiting import until
from tests.fixtures.workers import Notes
from tests.workers.handlers import note

pytestmark = pytest.mark.in_memory

HOUR = 3600.0


class Ears:
    """The connections on which somebody listens for the ends of jobs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pids: list[int] = []
        connect = Listener.connect

        async def noticed(listener: Listener) -> None:
            await connect(listener)
            if listener._connection is not None:
                self.pids.append(listener._connection.info.backend_pid)

        monkeypatch.setattr(Listener, "connect", noticed)


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> Ears:
    return Ears(monkeypatch)


def awaited(app: Werk, pg: psycopg.Connection, count: int) -> Any:
    text = app._app.names.render("select count(*) from {jobs} where awaited", with_params=False).encode()

    return lambda: pg.execute(text).fetchone() == (count,)


@pytest.mark.timing
@pytest.mark.parametrize("way", ["wait_for", "apply", "map"])
@pytest.mark.postgres
async def test_whoever_waits_is_woken_within_fifty_milliseconds_of_completion(
    app: Werk, pg: psycopg.Connection, way: str
) -> None:
    """Polling would take an hour."""
    late: list[float] = []
    text = app._app.names.render("select max(completed_at) from {jobs}", with_params=False).encode()
    with working(app):
        _ = await app.apply(handlers.echo, timeout=20)
        for _ in range(7):
            match way:
                case "wait_for":
                    job = await app.enqueue(handlers.nap, 0.1)
                    assert job is not None
                    _ = await app.wait_for(job, timeout=20, poll_interval=HOUR)
                case "apply":
                    _ = await app.apply(handlers.nap, 0.1, timeout=20, poll_interval=HOUR)
                case _:
                    _ = await app.map(handlers.nap, [{"seconds": 0.1}] * 3, timeout=20, poll_interval=HOUR)
            woken = time.time()
            row = pg.execute(text).fetchone()
            assert row is not None
            late.append(woken - row[0].timestamp())
    assert sorted(late)[len(late) // 2] < 0.05, late


@pytest.mark.postgres
async def test_many_tasks_wait_at_once_over_one_listening_connection(app: Werk, ears: Ears) -> None:
    with working(app):
        for _ in range(5):
            calls = (app.apply(handlers.plain_echo, number, timeout=60, poll_interval=HOUR) for number in range(40))
            assert await asyncio.gather(*calls) == list(range(40))
    assert len(ears.pids) == 1


@pytest.mark.postgres
async def test_when_the_listening_connection_is_cut_another_is_opened(
    app: Werk, notes: Notes, pg: psycopg.Connection, ears: Ears
) -> None:
    with working(app):
        job = await app.enqueue(until_noted, "a", "go")
        assert job is not None
        waiting = asyncio.create_task(app.wait_for(job, timeout=30, poll_interval=HOUR))
        await until(awaited(app, pg, 1))
        pg.execute("select pg_terminate_backend(%s)", [ears.pids[0]])
        await until(lambda: len(ears.pids) == 2)
        note("go")
        assert (await waiting).status is JobStatus.COMPLETE


@pytest.mark.postgres
async def test_without_listening_polling_does(
    app: Werk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pgwerk.errors import ConnectionFailed

    async def refused(_listener: Listener) -> None:
        raise ConnectionFailed("too many connections")

    monkeypatch.setattr(Listener, "connect", refused)
    with working(app):
        for number in range(3):
            assert await app.apply(handlers.echo, number, timeout=30, poll_interval=0.02) == number
    told = [record for record in caplog.records if "polling instead" in record.getMessage()]
    assert len(told) == 1, "it is neither tried nor told each time"


@pytest.mark.postgres
async def test_a_pooler_that_swallows_notifications_is_found_out(
    app: Werk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As through a pooler: another backend answers, and nothing is heard."""
    monkeypatch.setattr("pgwerk.aio.listener.PROOF_SECONDS", 0.05)
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: -1))
    monkeypatch.setattr(Listener, "_readable", lambda _listener, pgconn: pgconn.consume_input())
    with working(app):
        for number in range(3):
            assert await app.apply(handlers.echo, number, timeout=30, poll_interval=0.02) == number
    told = [record.getMessage() for record in caplog.records if "listen_dsn" in record.getMessage()]
    assert len([text for text in told if "polling instead" in text]) >= 1


@pytest.mark.postgres
async def test_a_listener_behind_a_pooler_that_hears_is_used(
    app: Werk, monkeypatch: pytest.MonkeyPatch, ears: Ears
) -> None:
    """A session pooler, or a listen_dsn past it: the proof arrives."""
    monkeypatch.setattr(psycopg.ConnectionInfo, "backend_pid", property(lambda _: -1))
    with working(app):
        assert await app.apply(handlers.echo, 1, timeout=30, poll_interval=HOUR) == 1
    assert len(ears.pids) == 1


@pytest.mark.postgres
async def test_listening_takes_its_own_dsn(app: Werk, dsn: str, schema: str, pg: psycopg.Connection) -> None:
    mine = Werk(dsn, schema=schema, listen_dsn=f"{dsn}?application_name=ears_{schema}")
    with working(app):
        assert await mine.apply(handlers.echo, 1, timeout=30, poll_interval=HOUR) == 1
        sql = "select count(*) from pg_stat_activity where application_name = %s"
        assert pg.execute(sql, [f"ears_{schema}"]).fetchone() == (1,)
    await mine.close()


@pytest.mark.postgres
async def test_the_connection_is_closed_when_nobody_waits_any_more(
    app: Werk, monkeypatch: pytest.MonkeyPatch, ears: Ears
) -> None:
    monkeypatch.setattr("pgwerk.aio.waiting.LINGER", 0.01)
    with working(app):
        assert await app.apply(handlers.echo, 1, timeout=30) == 1
        corner = inside(app).room._corners.get()
        assert corner is not None
        await until(lambda: not corner._listener.connected)
        assert await app.apply(handlers.echo, 2, timeout=30) == 2
    assert len(ears.pids) == 2


async def test_map_keeps_the_order_and_raises_or_returns_what_failed(app: Werk) -> None:
    with working(app):
        assert await app.map(handlers.echo, [{"value": n} for n in range(30)], timeout=30) == list(range(30))
        assert await app.map(handlers.echo, [], timeout=1) == []
        with pytest.raises(JobError, match="on purpose") as caught:
            _ = await app.map(handlers.fail, [{}, {}], timeout=30)
        assert caught.value.job is not None
        found = await app.map(handlers.fail, [{}, {"message": "b"}], timeout=30, return_exceptions=True)
        assert [type(one) for one in found] == [JobError, JobError]
        _ = await app.enqueue(handlers.echo, _key="taken", _delay=HOUR)
        given: list[dict[str, Any]] = [{"value": 1}, {"value": 2, "_key": "taken"}]
        with pytest.raises(JobError, match="taken"):
            _ = await app.map(handlers.echo, given, timeout=30)
        with pytest.raises(JobError, match="taken"):
            _ = await app.apply(handlers.echo, _key="taken", timeout=30)
        found = await app.map(handlers.echo, given, timeout=30, return_exceptions=True)
        assert found[0] == 1
        assert isinstance(found[1], JobError)


async def test_waiting_has_an_end_and_can_be_taken_up_again(app: Werk) -> None:
    job = await app.enqueue(handlers.echo, 3)
    assert job is not None
    for _ in range(2):
        with pytest.raises(JobTimeout, match="it keeps running"):
            _ = await app.wait_for(job, timeout=0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            _ = await app.wait_for(job)
    with pytest.raises(ValueError, match="poll_interval"):
        _ = await app.wait_for(job, poll_interval=0)
    with working(app):
        assert (await app.wait_for(job, timeout=20)).result == 3


@pytest.mark.postgres
async def test_a_job_deleted_while_it_is_waited_for_is_not_found(app: Werk, pg: psycopg.Connection) -> None:
    job = await app.enqueue(handlers.echo)
    assert job is not None
    waiting = [asyncio.create_task(app.wait_for(job, timeout=20, poll_interval=HOUR)) for _ in range(3)]
    await until(awaited(app, pg, 1))
    await app.delete_job(job)
    for one in waiting:
        with pytest.raises(JobNotFound):
            _ = await one


async def test_waiting_for_what_an_open_transaction_holds_is_refused(app: Werk, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        with pytest.raises(EnqueueError, match="transaction"):
            _ = await app.apply(handlers.echo, _conn=connection)
        with pytest.raises(EnqueueError, match="transaction"):
            _ = await app.map(handlers.echo, [{}], _conn=connection)
    assert await app.list_jobs() == []


@pytest.mark.parametrize("wait", ["apply", "map"])
async def test_one_deadline_holds_for_the_enqueue_and_the_wait(
    app: Werk, monkeypatch: pytest.MonkeyPatch, wait: str
) -> None:
    """What the enqueue takes is not given to the wait again, and the error speaks of the whole."""
    given: list[float | None] = []
    original = Runtime.wait

    async def spy(self: Runtime, ids: list[str], seconds: float | None, poll_interval: float) -> None:
        given.append(seconds)
        await original(self, ids, seconds, poll_interval)

    monkeypatch.setattr(Runtime, "wait", spy)
    call = partial(app.apply, "app.nobody") if wait == "apply" else partial(app.map, "app.nobody", [{}, {}])
    with pytest.raises(JobTimeout, match=r"unfinished after 0.5 s \(it keeps running\)"):
        await call(timeout=0.5)
    assert given[0] is not None
    assert 0 < given[0] < 0.5
