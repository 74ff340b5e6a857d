"""In-memory mode as an application sees it: the same app and workers, without Postgres and its driver."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgwerk import (
    AsyncWorker,
    Callback,
    ConfigError,
    ForkWorker,
    Group,
    JobError,
    JobStatus,
    JobTimeout,
    ProcessWorker,
    Repeat,
    Retry,
    ThreadWorker,
    Werk,
    Worker,
    aio,
)
from tests.memory import jobs


def drain(app: Werk, **settings: Any) -> None:
    ThreadWorker(app, burst=True, **settings).run()


@pytest.fixture
def app() -> Werk:
    jobs.seen.clear()
    return Werk.in_memory()


def test_it_needs_no_driver_and_no_server() -> None:
    program = (
        "import asyncio, sys\n"
        "from pgwerk import ThreadWorker, Werk, aio\n"
        "from tests.memory import jobs\n"
        "app = Werk('memory://')\n"
        "job = app.enqueue(jobs.add, 1, 2)\n"
        "ThreadWorker(app, burst=True).run()\n"
        "assert app.get_job(job).result == 3\n"
        "async def main():\n"
        "    app = aio.Werk.in_memory()\n"
        "    job = await app.enqueue(jobs.add, 1, 2)\n"
        "    await aio.AsyncWorker(app, burst=True).run()\n"
        "    assert (await app.get_job(job)).result == 3\n"
        "asyncio.run(main())\n"
        "assert not [name for name in sys.modules if name.startswith('psycopg')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_names_share_a_store_and_no_name_does_not() -> None:
    one, other = Werk("memory://shared"), Werk.in_memory("shared")
    job = one.enqueue(jobs.add, 1, 2)
    assert other.get_job(job).function == "tests.memory.jobs.add"
    assert other.sync.aio is other.aio
    assert Werk.in_memory().list_jobs() == Werk("memory://").list_jobs() == []
    assert repr(Werk("memory://shared")) == "<pgwerk.Werk memory://shared, schema 'pgwerk', prefix '_pgwerk'>"


def test_both_faces_see_the_same_jobs(app: Werk) -> None:
    async def main() -> None:
        job = await app.aio.enqueue(jobs.add, 1, 2)
        thread = threading.Thread(target=drain, args=(app,))
        waiting = asyncio.create_task(app.aio.wait_for(job, timeout=10))
        await asyncio.sleep(0)
        thread.start()
        assert (await waiting).result == 3
        await asyncio.to_thread(thread.join)

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_options_work(app: Werk, kind: str) -> None:
    first = app.enqueue(jobs.note, "first", _priority=1, _queue="mail", _meta={"a": 1})
    second = app.enqueue(jobs.note, "second", _depends_on=first, _queue="mail")
    failing = app.enqueue(jobs.fail, _retry=Retry(2, intervals=[0]), _on_failure=Callback(jobs.failed), _queue="mail")
    again = app.enqueue(jobs.note, "again", _repeat=Repeat(2, interval=0), _queue="mail")
    members = [app.enqueue(jobs.note, f"g{n}", _group=Group("g", 1), _queue="mail") for n in range(3)]
    assert app.enqueue(jobs.note, "k", _key="once", _queue="mail") is not None
    assert app.enqueue(jobs.note, "k", _key="once", _queue="mail") is None
    if kind == "thread":
        drain(app, queues=["mail"])
    else:
        AsyncWorker(app.aio, queues=["mail"], burst=True).run()
    assert jobs.seen.index("first") < jobs.seen.index("second")
    assert sorted(jobs.seen) == sorted(["first", "second", "failed", "again", "again", "again", "g0", "g1", "g2", "k"])
    assert [app.get_job(job).status for job in (first, second, again, *members)] == [JobStatus.COMPLETE] * 6
    ended = app.get_job(failing)
    assert (ended.status, ended.attempts) == (JobStatus.FAILED, 2)
    assert [one.status for one in app.get_executions(failing)] == ["failed", "failed"]
    assert app.get_job(second).status is JobStatus.COMPLETE


def test_the_clock_can_be_set(app: Werk) -> None:
    app.clock.freeze()
    app.clock.set(datetime(2030, 1, 1, tzinfo=UTC))
    job = app.enqueue(jobs.note, "later", _delay=3600)
    drain(app)
    assert (app.get_job(job).status, jobs.seen) == (JobStatus.SCHEDULED, [])
    app.clock.advance(timedelta(hours=1))
    drain(app)
    ended = app.get_job(job)
    assert (ended.status, jobs.seen) == (JobStatus.COMPLETE, ["later"])
    assert ended.started_at is not None
    assert abs(ended.started_at - datetime(2030, 1, 1, 1, tzinfo=UTC)) < timedelta(seconds=1)


def test_a_running_worker_hears_that_time_has_passed(app: Werk) -> None:
    worker = ThreadWorker(app, poll_interval=60)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        job = app.enqueue(jobs.note, "later", _delay=3600)
        app.clock.advance(3601)
        assert app.wait_for(job, timeout=10).status is JobStatus.COMPLETE
    finally:
        worker.stop()
        thread.join(10)


def test_apply_map_abort_and_inspection(app: Werk) -> None:
    worker = ThreadWorker(app, concurrency=3)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert app.apply(jobs.add, 1, 2, timeout=10) == 3
        assert app.map(jobs.add, [{"a": n, "b": 1} for n in range(20)], timeout=10) == list(range(1, 21))
        with pytest.raises(JobError, match="no"):
            app.apply(jobs.fail, timeout=10)
        long = app.enqueue(jobs.wait)
        assert jobs.started.wait(10)
        assert [one.status for one in app.list_workers()] == ["active"]
        assert app.abort_job(long) is True
        assert app.wait_for(long, timeout=10).status is JobStatus.ABORTED
        with pytest.raises(JobTimeout):
            app.wait_for(app.enqueue(jobs.note, "x", _queue="nobody"), timeout=0.05)
        (stats,) = [one for one in app.get_queue_stats() if one.queue == "default"]
        assert stats.counts["complete"] == 21
    finally:
        worker.stop()
        thread.join(10)
    assert not thread.is_alive()


def test_what_raises_leaves_nothing_behind(app: Werk) -> None:
    with pytest.raises(Exception, match="does not exist"):
        app.enqueue(jobs.add, 1, 2, _depends_on="0197c2f0-6f0c-7b7e-9d0a-3a1d1c3b2a10")
    assert app.list_jobs() == []


@pytest.mark.parametrize(("refused", "instead"), [
    (Worker, "ThreadWorker or AsyncWorker"),
    (ProcessWorker, "ThreadWorker or AsyncWorker"),
    (ForkWorker, "ThreadWorker or AsyncWorker"),
    (lambda app: aio.Worker(app.aio), "ThreadWorker or AsyncWorker"),
    (lambda app: app.enqueue(jobs.add, 1, 2, _conn=object()), "leave _conn"),
    (lambda app: app.enqueue(jobs.add, 1, 2, _conn=object(), _sync=True), "leave _conn"),
    (lambda app: asyncio.run(app.aio.enqueue(jobs.add, 1, 2, _conn=object())), "leave _conn"),
    (lambda _: Werk("memory://", listen_dsn="postgresql://x/y"), "leave it out"),
    (lambda app: app.migration_sql(), "for Postgres"),
    (lambda _: Werk("postgresql://nowhere/x").clock, "in_memory"),
])  # fmt: skip
def test_what_cannot_be_says_what_to_use_instead(app: Werk, refused: Callable[[Werk], Any], instead: str) -> None:
    with pytest.raises(ConfigError, match=f"(?i){instead}"):
        refused(app)


@pytest.mark.timing
def test_a_suite_of_200_jobs_takes_no_time() -> None:
    # Of the processor: what the clock says depends on who else works.
    began = time.process_time()
    for number in range(200):
        app = Werk.in_memory()
        job = app.enqueue(jobs.add, number, 1)
        drain(app, concurrency=1)
        assert app.get_job(job).result == number + 1
    assert time.process_time() - began < 2 * max(1.0, jobs.slowness())
