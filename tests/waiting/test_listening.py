"""What listening costs whoever waits, while it connects and when it cannot: the same on both faces."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgwerk import Job, JobTimeout, WerkConfig, aio
from pgwerk import Werk as SyncWerk
from pgwerk._app.waiting import LINGER, Listening
from pgwerk._handlers.interrupt import raise_in_thread
from pgwerk.aio.listener import Listener
from pgwerk.sync.postgres import Ears
from tests.exactness import handlers
from tests.fixtures.inside import inside
from tests.fixtures.proxy import Proxy
from tests.fixtures.waiting import eventually
from tests.fixtures.workers import QUICK, thread_worker

CUT = 0.5
"""Seconds that somebody waits who does not wait long."""


class Interrupted(BaseException):
    """As a worker interrupts what runs in its threads."""


class Face:
    """An app whose notifications arrive over *listen_dsn*, and one who waits with it."""

    def __init__(self, dsn: str, schema: str, listen_dsn: str | None) -> None:
        config = WerkConfig(**QUICK)  # type: ignore[arg-type]
        self.plain = SyncWerk(dsn, schema=schema, config=config, listen_dsn=listen_dsn)

    def wait_for(self, job: Job, timeout: float | None, poll_interval: float = 3600.0) -> Job:
        raise NotImplementedError

    def interrupted(self, job: Job, when: Callable[[], bool]) -> float:
        """Wait for a job without a limit, be interrupted at some time, and say how long that took to arrive."""
        raise NotImplementedError

    def waits(self) -> bool:
        """Whether somebody is still noted as waiting."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Plain(Face):
    def wait_for(self, job: Job, timeout: float | None, poll_interval: float = 3600.0) -> Job:
        return self.plain.wait_for(job, timeout=timeout, poll_interval=poll_interval)

    def interrupted(self, job: Job, when: Callable[[], bool]) -> float:
        ended: list[type[BaseException] | None] = []

        def wait() -> None:
            try:
                _ = self.wait_for(job, None)
            except Interrupted as error:
                ended.append(type(error))

        thread = threading.Thread(target=wait)
        thread.start()
        eventually(when)
        began = time.monotonic()
        assert thread.ident is not None
        raise_in_thread(thread.ident, Interrupted)
        thread.join(30)
        assert ended == [Interrupted]
        return time.monotonic() - began

    def waits(self) -> bool:
        return bool(inside(self.plain).room._state().waits)

    def close(self) -> None:
        self.plain.close()


class Awaited(Face):
    def __init__(self, dsn: str, schema: str, listen_dsn: str | None) -> None:
        super().__init__(dsn, schema, listen_dsn)
        self._app: aio.Werk = self.plain.aio
        self._runner = asyncio.Runner()

    def wait_for(self, job: Job, timeout: float | None, poll_interval: float = 3600.0) -> Job:
        return self._runner.run(self._app.wait_for(job, timeout=timeout, poll_interval=poll_interval))

    def interrupted(self, job: Job, when: Callable[[], bool]) -> float:
        async def run() -> float:
            task = asyncio.create_task(self._app.wait_for(job, poll_interval=3600))
            await asyncio.to_thread(eventually, when)
            began = time.monotonic()
            _ = task.cancel()
            with pytest.raises(asyncio.CancelledError):
                _ = await task
            return time.monotonic() - began

        return self._runner.run(run())

    def waits(self) -> bool:
        async def look() -> bool:
            corner = inside(self._app).room._corners.get()
            return corner is not None and bool(corner._waits)

        return self._runner.run(look())

    def close(self) -> None:
        self._runner.run(self._app.close())
        self._runner.close()
        self.plain.close()


Make = Callable[[str | None], Face]


@pytest.fixture(params=[Plain, Awaited], ids=["sync", "aio"])
def face(request: pytest.FixtureRequest, dsn: str, migrated: str) -> Iterator[Make]:
    made: list[Face] = []

    def make(listen_dsn: str | None) -> Face:
        made.append(request.param(dsn, migrated, listen_dsn))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def silent(dsn: str) -> Iterator[Proxy]:
    """A way to Postgres on which a connection takes as long as a test likes."""
    with Proxy(dsn) as proxy:
        proxy.silence()
        yield proxy
        proxy.speak()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "pgwerk-waiting"]


def listeners(pg: "psycopg.Connection[Any]", face: Face) -> int:
    """The connections that listen for the ends of this app's jobs."""
    text = "select count(*) from pg_stat_activity where query like %s and pid <> pg_backend_pid()"
    row = pg.execute(text, [f'listen "{face.plain._app.names.done_channel}%']).fetchone()
    return int(row[0]) if row else 0


def later(face: Face) -> Job:
    return face.plain.enqueue(handlers.noop, _delay=3600)


@pytest.mark.timing
def test_who_waits_for_half_a_second_waits_no_longer_for_the_listener(face: Make, silent: Proxy) -> None:
    app = face(silent.dsn)
    job = later(app)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(JobTimeout):
            _ = app.wait_for(job, CUT)
        assert CUT <= time.monotonic() - began < CUT + 0.4


@pytest.mark.timing
def test_an_interruption_while_it_connects_arrives_and_leaves_nothing_behind(
    face: Make, silent: Proxy, pg: "psycopg.Connection[Any]"
) -> None:
    app = face(silent.dsn)
    job = later(app)
    assert app.interrupted(job, lambda: silent.asked) < 0.5
    assert not app.waits()
    silent.speak()
    eventually(lambda: threads() == [], what="the end of the thread that listens")
    eventually(lambda: listeners(pg, app) == 0, what="the end of its connection")
    with thread_worker(app.plain):
        assert app.plain.update_job(job, delay=0)
        _ = app.wait_for(job, 20)
    assert not app.waits()


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_a_listener_that_comes_late_misses_nothing(face: Make, silent: Proxy, seconds: float) -> None:
    """The look of one who would not wait for it comes before it listens; so there is another one afterwards."""
    app = face(silent.dsn)
    job = later(app)
    speaking = threading.Timer(seconds, silent.speak)
    speaking.start()
    with thread_worker(app.plain):
        acting = threading.Timer(seconds + 0.3, lambda: app.plain.update_job(job, delay=0))
        acting.start()
        assert app.wait_for(job, 30).status == "complete"
        acting.join()
    speaking.join()


def test_what_failed_is_not_tried_again_at_once_and_told_once(
    face: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[int] = []
    connect, awaited = Ears.connect, Listener.connect

    def counted(ears: Ears) -> None:
        tries.append(1)
        connect(ears)

    async def counted_too(listener: Listener) -> None:
        tries.append(1)
        await awaited(listener)

    monkeypatch.setattr(Ears, "connect", counted)
    monkeypatch.setattr(Listener, "connect", counted_too)
    app = face("host=127.0.0.1 port=1 dbname=nowhere connect_timeout=2")
    with thread_worker(app.plain):
        for _ in range(3):
            job = app.plain.enqueue(handlers.noop)
            assert app.wait_for(job, 20, poll_interval=0.02).status == "complete"
    told = [one.getMessage() for one in caplog.records if one.name == "pgwerk.waiting"]
    assert len(told) == 1
    assert "polling instead" in told[0]
    assert "127.0.0.1:1/nowhere" in told[0]
    assert len(tries) == 1


def test_when_to_listen() -> None:
    listening = Listening()
    assert listening.promising(0.0)
    listening.failed(10.0)
    assert not listening.promising(10.0 + LINGER - 0.1)
    assert listening.promising(10.0 + LINGER)
    listening.deaf = True
    assert not listening.promising(10.0 + 100 * LINGER)
