"""The asyncio app as its users see it; the SQL behind it is tested with both executors elsewhere."""

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgwerk import EnqueueError, EnqueueParams, JobNotFound, JobStatus, WerkConfig, WerkError
from pgwerk.aio import Werk
from pgwerk.aio.calling import Calling
from pgwerk.aio.enqueueing import Enqueueing
from pgwerk.aio.managing import Managing
from tests.aio import handlers
from tests.fixtures.loops import working

pytestmark = pytest.mark.in_memory


async def test_a_job_is_enqueued_run_and_looked_at(app: Werk) -> None:
    async with app:
        job = await app.enqueue(handlers.echo, 5, _queue="default", _priority=3, _meta={"a": 1})
        assert job is not None
        assert (job.status, job.priority, job.meta) == (JobStatus.QUEUED, 3, {"a": 1})
        assert (await app.get_job(job)).payload == {"args": [5], "kwargs": {}}
        with working(app):
            ended = await app.wait_for(job, timeout=20)
        assert (ended.status, ended.result) == (JobStatus.COMPLETE, 5)
        assert [run.status.value for run in await app.get_executions(job)] == ["complete"]
        assert [worker.status for worker in await app.list_workers()] == ["stopped"]
        assert [one.id for one in await app.list_jobs(status="complete")] == [job.id]
        assert [stats.counts for stats in await app.get_queue_stats()] == [{"complete": 1}]


async def test_nothing_has_to_be_connected_first(app: Werk) -> None:
    assert await app.enqueue(handlers.echo) is not None
    assert len(await app.list_jobs()) == 1


async def test_many_first_uses_at_once(app: Werk) -> None:
    jobs = await asyncio.gather(*(app.enqueue(handlers.echo, number) for number in range(50)))
    assert None not in jobs
    assert len(await app.list_jobs(limit=100)) == 50
    assert await app.pending_migrations() == []
    assert await app.schema_version() > 0


async def test_a_key_is_taken_once(app: Werk) -> None:
    jobs = await asyncio.gather(*(app.enqueue(handlers.echo, _key="k") for _ in range(20)))
    assert len([job for job in jobs if job is not None]) == 1
    many = await app.enqueue_many([EnqueueParams(handlers.echo, key="k"), EnqueueParams(handlers.echo, key="l")])
    assert [job is None for job in many] == [True, False]
    assert await app.enqueue_many([]) == []


async def test_dependencies_and_times(app: Werk) -> None:
    parent = await app.enqueue(handlers.echo)
    child = await app.enqueue(handlers.echo, _depends_on=parent)
    later = await app.enqueue_in(timedelta(hours=1), handlers.echo)
    at = await app.enqueue_at(datetime(2099, 1, 1, tzinfo=UTC), handlers.echo)
    assert parent is not None
    assert child is not None
    assert later is not None
    assert at is not None
    assert [child.status, later.status, at.status] == ["waiting", "scheduled", "scheduled"]
    assert at.scheduled_at == datetime(2099, 1, 1, tzinfo=UTC)
    assert await app.get_job_dependencies(child) == [parent.id]
    with pytest.raises(EnqueueError, match="does not exist"):
        _ = await app.enqueue(handlers.echo, _depends_on="0190a5a0-0000-7000-8000-000000000000")


async def test_jobs_are_managed(app: Werk) -> None:
    job = await app.enqueue(handlers.echo, _key="k")
    assert job is not None
    assert await app.update_job("k", priority=7, meta={"b": 2})
    changed = await app.get_job(job)
    assert (changed.priority, changed.meta) == (7, {"b": 2})
    assert not await app.update_job("unknown", priority=7)
    assert await app.cancel_job(job)
    assert not await app.cancel_job(job)
    assert await app.requeue_job(job)
    assert await app.bulk_cancel_jobs() == 1
    assert await app.bulk_requeue_jobs(function_name="tests.aio.handlers.echo") == 1
    assert await app.abort_job(job)
    with pytest.raises(JobNotFound):
        await app.touch_job(job)
    await app.delete_job(job)
    for gone in (app.delete_job(job), app.get_job(job), app.get_job("no id"), app.wait_for(job)):
        with pytest.raises(JobNotFound):
            await gone


@pytest.mark.usefixtures("unmigrated")
@pytest.mark.postgres
async def test_the_installation_is_managed(app: Werk) -> None:
    assert len(await app.migrate()) > 0
    assert await app.migrate() == []
    await app.pause_queue("default", "for now")
    job = await app.enqueue(handlers.echo)
    assert [stats.pause_reason for stats in await app.get_queue_stats()] == ["for now"]
    assert await app.resume_queue("default")
    assert not await app.resume_queue("default")
    assert await app.sweep() == []
    await app.vacuum()
    assert job is not None
    assert await app.cancel_job(job)
    assert await app.purge_jobs(["aborted"], older_than_days=0) == 1
    _ = await app.enqueue(handlers.echo)
    await app.truncate()
    assert await app.list_jobs() == []


async def test_what_cannot_be_is_refused_before_any_sql(dsn: str, schema: str) -> None:
    nowhere = Werk("postgresql://nobody@127.0.0.1:9/x", schema=schema)
    for refused in (
        nowhere.enqueue(handlers.echo, 1, 2, 3),
        nowhere.enqueue(lambda: None),
        nowhere.enqueue(handlers.echo, _prioritty=3),
        nowhere.enqueue_many([handlers.echo]),  # type: ignore[list-item]
    ):
        with pytest.raises(EnqueueError):
            _ = await refused
    with pytest.raises(JobNotFound):
        _ = await nowhere.get_job("no id")
    with pytest.raises(ValueError, match="not a job status"):
        _ = await nowhere.list_jobs(status="done")
    with pytest.raises(ConnectionError):
        _ = await nowhere.list_jobs()
    strict = Werk(dsn, schema=schema, config=WerkConfig())
    with pytest.raises(WerkError, match="allow_truncate"):
        await strict.truncate()
    await strict.close()


async def test_without_a_pool_every_operation_has_a_connection_of_its_own(dsn: str, schema: str) -> None:
    app = Werk(dsn, schema=schema, pool=False)
    assert await app.enqueue(handlers.echo) is not None
    assert len(await app.list_jobs()) == 1


async def test_an_app_can_be_closed_and_used_again(app: Werk) -> None:
    for number in range(3):
        async with app:
            _ = await app.enqueue(handlers.echo)
            assert len(await app.list_jobs()) == number + 1


async def test_every_method_that_does_io_is_a_coroutine_function() -> None:
    plain = [
        name
        for kind in (Werk, *_PARTS)
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not _is_async(value)
    ]
    assert [name for name in sorted(plain) if not name.startswith("_")] == ["task"]


_PARTS = (Calling, Enqueueing, Managing)


def _is_async(value: Any) -> bool:
    return inspect.iscoroutinefunction(value)


async def test_lost_connections_are_noticed_before_they_are_used(app: Werk, pg: psycopg.Connection) -> None:
    """After one is lost, the others of the pool are checked."""
    _ = await asyncio.gather(*(app.enqueue(handlers.echo) for _ in range(10)))
    sql = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'werk' and query ~ %s"
    _ = pg.execute(sql.encode(), [app.schema])
    assert len(await app.list_jobs()) == 10
    _ = await asyncio.gather(*(app.enqueue(handlers.echo) for _ in range(10)))
    assert len(await app.list_jobs()) == 20
