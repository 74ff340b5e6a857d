"""`_sync=True` in an asyncio app: on the current loop or in a thread, and recorded either way."""

import asyncio
import threading
from typing import Any

import psycopg
import pytest

from pgwerk import EnqueueError, Job, JobError, JobStatus, Retry
from pgwerk.aio import AsyncWorker, Werk
from tests.aio import handlers
from tests.fixtures.loops import working
from tests.fixtures.waiting import until
from tests.fixtures.workers import Notes

pytestmark = pytest.mark.in_memory


def left_behind(app: Werk, pg: psycopg.Connection) -> list[Any]:
    """Claims, and jobs that are neither ended nor queued."""
    text = """
        select 'claim', claim_id::text from {worker_jobs}
        union all
        select 'claim', id::text from {claims}
        union all
        select status, id::text from {jobs} where status not in ('complete', 'failed', 'aborted', 'queued')
    """
    return pg.execute(app._app.names.render(text.replace("claim_id", "job_id"), with_params=False).encode()).fetchall()


async def enqueued(coroutine: Any) -> Job:
    job = await coroutine
    assert job is not None
    assert isinstance(job, Job)
    return job


async def test_a_coroutine_function_runs_on_this_loop(app: Werk, pg: psycopg.Connection) -> None:
    job = await enqueued(app.enqueue(handlers.the_loop, _sync=True, _delay=3600, _meta={"a": 1}))
    assert (job.status, job.attempts, job.worker_id, job.meta) == (JobStatus.COMPLETE, 1, None, {"a": 1})
    assert job.result == id(asyncio.get_running_loop())
    runs = await app.get_executions(job)
    assert [(run.status.value, run.attempt, run.result) for run in runs] == [("complete", 1, job.result)]
    assert left_behind(app, pg) == []


async def test_a_plain_function_runs_in_a_thread(app: Werk) -> None:
    job = await enqueued(app.enqueue(handlers.thread_name, _sync=True))
    assert job.result != threading.current_thread().name
    held = asyncio.create_task(app.enqueue(handlers.blocks, "a", _sync=True))
    handlers.entered.clear()
    handlers.release.clear()
    assert await asyncio.to_thread(handlers.entered.wait, 20)
    assert (await enqueued(app.enqueue(handlers.echo, 1, _sync=True))).result == 1, "the loop is free meanwhile"
    handlers.release.set()
    assert (await enqueued(held)).result == "a"


async def test_it_has_a_context_and_attempts(app: Werk, pg: psycopg.Connection) -> None:
    job = await enqueued(app.enqueue(handlers.with_context, 7, _sync=True))
    assert job.result == ["pgwerk.aio.app", 1, "inline", 7]
    job = await enqueued(app.enqueue(handlers.third_time, _sync=True, _retry=Retry(3, [3600])))
    assert (job.status, job.result) == (JobStatus.COMPLETE, 3)
    assert [run.status.value for run in await app.get_executions(job)] == ["failed", "failed", "complete"]
    assert await app.apply(handlers.echo, 5, _sync=True, timeout=5) == 5
    assert await app.map(handlers.echo, [{"value": 1}, {"value": 2}], _sync=True, timeout=5) == [1, 2]
    assert left_behind(app, pg) == []


async def test_a_failure_is_recorded_and_its_callback_runs_later(app: Werk, notes: Notes) -> None:
    job = await enqueued(app.enqueue(handlers.fail, _sync=True, _retry=2, _on_failure=handlers.on_end))
    assert (job.status, job.attempts) == (JobStatus.FAILED, 2)
    assert "on purpose" in (job.error or "")
    with pytest.raises(JobError, match="on purpose"):
        _ = await app.apply(handlers.fail, _sync=True, timeout=5)
    with working(app):
        notes.wait("callback failed")


async def test_a_job_in_place_inside_a_job(app: Werk) -> None:
    assert (await enqueued(app.enqueue(handlers.nested, 5, _sync=True))).result == 5
    job = await enqueued(app.enqueue(handlers.nested, 5))
    await AsyncWorker(app, burst=True).run()
    assert (await app.get_job(job)).result == 5


async def test_a_key_that_exists_runs_nothing(app: Werk, notes: Notes) -> None:
    assert await app.enqueue(handlers.noted, "first", _sync=True, _key="k") is not None
    assert await app.enqueue(handlers.noted, "second", _sync=True, _key="k") is None
    assert notes.all() == ["first"]


async def test_what_cannot_run_at_once_is_refused(app: Werk) -> None:
    parent = await app.enqueue(handlers.echo, _delay=3600)
    refused: list[dict[str, Any]] = [{"_depends_on": parent}, {"_group": "g"}]
    for options in refused:
        with pytest.raises(EnqueueError, match="_sync"):
            _ = await app.enqueue(handlers.echo, _sync=True, **options)
    assert len(await app.list_jobs()) == 1


async def test_cancelling_the_caller_cancels_the_handler_and_records_it(app: Werk, pg: psycopg.Connection) -> None:
    handlers.started = asyncio.Event()
    handlers.cancelled.clear()
    task = asyncio.create_task(app.enqueue(handlers.until_cancelled, "a", _sync=True, _retry=3))
    _ = await handlers.started.wait()
    _ = task.cancel()
    with pytest.raises(asyncio.CancelledError):
        _ = await task
    assert handlers.cancelled == ["a"]
    (job,) = await app.list_jobs()
    assert (job.status, job.attempts) == (JobStatus.ABORTED, 1)
    assert left_behind(app, pg) == []


async def test_cancelling_waits_for_what_runs_in_a_thread(app: Werk, pg: psycopg.Connection) -> None:
    handlers.entered.clear()
    handlers.release.clear()
    task = asyncio.create_task(app.enqueue(handlers.blocks, "a", _sync=True))
    assert await asyncio.to_thread(handlers.entered.wait, 20)
    for _ in range(3):
        _ = task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    handlers.release.set()
    with pytest.raises(asyncio.CancelledError):
        _ = await task
    (job,) = await app.list_jobs()
    assert (job.status, job.result) == (JobStatus.COMPLETE, "a")
    assert left_behind(app, pg) == []


async def test_a_timeout_of_the_caller(app: Werk, pg: psycopg.Connection) -> None:
    await app.connect()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            _ = await app.enqueue(handlers.nap, 60, _sync=True)
    (job,) = await app.list_jobs()
    assert job.status is JobStatus.ABORTED
    assert left_behind(app, pg) == []


@pytest.mark.postgres
async def test_a_job_that_takes_long_is_kept_alive(app: Werk, pg: psycopg.Connection) -> None:
    """Others would recover it, once a worker that nobody knows has been silent for long enough."""
    handlers.started = asyncio.Event()
    with working(app, sweep_interval=0.1):
        task = asyncio.create_task(app.enqueue(handlers.until_cancelled, "long", _sync=True, _retry=3))
        _ = await handlers.started.wait()
        text = "select count(*) from {claims} where claimed_at < now() - %s * interval '1 s'"
        silent = app._app.names.render(text, with_params=True).encode()
        await until(lambda: pg.execute(silent, [app._app.liveness + 0.5]).fetchone() == (1,))
        assert await app.sweep() == []
        (job,) = await app.list_jobs()
        assert (job.status, job.attempts) == (JobStatus.ACTIVE, 1)
        _ = task.cancel()
        with pytest.raises(asyncio.CancelledError):
            _ = await task


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("handler", [handlers.echo, handlers.plain_echo, handlers.fail])
@pytest.mark.postgres
async def test_in_a_callers_transaction_it_is_recorded_if_that_commits(
    app: Werk, dsn: str, pg: psycopg.Connection, end: str, handler: Any
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        job = await enqueued(app.enqueue(handler, _sync=True, _conn=connection))
        assert job.status.terminal
        assert await app.list_jobs() == []
        await getattr(connection, end)()
    assert len(await app.list_jobs()) == (end == "commit")
    assert left_behind(app, pg) == []
