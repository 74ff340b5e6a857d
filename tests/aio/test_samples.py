"""What the documents show, asked of `pgwerk.aio`: each documented call once, as it is written there."""

from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from pgwerk.aio import (
    Callback,
    Context,
    Dependency,
    EnqueueParams,
    Job,
    JobStatus,
    PickleSerializer,
    Repeat,
    Retry,
    Werk,
    WerkConfig,
    WerkError,
)
from tests.aio import handlers
from tests.fixtures.loops import working
from tests.fixtures.workers import Notes
from tests.workers.handlers import note


async def my_func(x: int = 0, n: int = 0) -> int:
    return x + n


async def send_email(to: str, subject: str = "") -> str:
    return f"{to}: {subject}"


async def send_email_with_context(ctx: Context, to: str) -> str:
    return f"{ctx.job.id} {ctx.worker.name} {to}"


async def notify_done(job: Job) -> None:
    note(f"done {job.result}")


async def alert_team(job: Job) -> None:
    note(f"alert {job.status.value}")


async def cleanup() -> None:
    note("cleanup")


async def step(name: str) -> None:
    note(name)


async def breaks() -> None:
    raise RuntimeError("broken")


@pytest.fixture(autouse=True)
def in_the_schema(schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that `Werk(dsn)` is as short here as it is in the documents."""
    monkeypatch.setenv("PGWERK_SCHEMA", schema)


async def test_connecting_by_hand_and_as_a_context(dsn: str) -> None:
    app = Werk(dsn)
    await app.connect()
    await app.connect()
    await app.disconnect()
    await app.disconnect()
    async with app:
        assert await app.list_jobs() == []


async def test_enqueueing_with_and_without_a_context(app: Werk) -> None:
    with working(app):
        job = await app.enqueue(send_email, to="user@example.com", subject="Hello")
        other = await app.enqueue(send_email_with_context, to="user@example.com")
        assert job is not None
        assert other is not None
        assert (await app.wait_for(job.id, timeout=20)).result == "user@example.com: Hello"
        assert (await app.wait_for(other, timeout=20)).result.startswith(other.id)


async def test_every_option_of_the_long_sample(app: Werk, notes: Notes) -> None:
    job = await app.enqueue(
        my_func,
        x=1,
        _queue="high",
        _priority=10,
        _delay=30,
        _at=datetime(2025, 1, 1, tzinfo=UTC),
        _retry=Retry(max=3, intervals=[10, 60, 300]),
        _timeout=120,
        _heartbeat=30,
        _key="unique-key",
        _group="user:42",
        _meta={"source": "api"},
        _on_success=notify_done,
        _on_failure=alert_team,
    )
    assert job is not None
    assert (job.queue, job.priority, job.key, job.group_key) == ("high", 10, "unique-key", "user:42")
    assert (job.timeout_secs, job.heartbeat_secs, job.max_attempts) == (120, 30, 3)
    assert job.status is JobStatus.QUEUED, "_at wins over _delay, and is over"
    assert await app.enqueue(my_func, x=1, _key="unique-key") is None
    with working(app, queues=["default", "high"]):
        assert (await app.wait_for(job, timeout=20)).result == 1
        notes.wait("done 1")


async def test_the_other_options_of_the_reference(app: Werk, notes: Notes) -> None:
    with working(app):
        failed = await app.enqueue(
            breaks, _retry=1, _failure_ttl=3600, _result_ttl=60, _ttl=60, _on_failure=Callback(alert_team, timeout=30),
            _failure_mode="hold",
        )  # fmt: skip
        assert failed is not None
        assert (await app.wait_for(failed, timeout=20)).status is JobStatus.FAILED
        notes.wait("alert failed")
    waiting = await app.enqueue(my_func, _delay=60, _on_stopped="tests.aio.test_samples.alert_team")
    assert waiting is not None
    assert await app.cancel_job(waiting.id)
    with working(app):
        notes.wait("alert aborted")
    ran = await app.enqueue(my_func, 2, 3, _sync=True)
    assert ran is not None
    assert ran.result == 5


async def test_repeating(app: Werk, notes: Notes) -> None:
    job = await app.enqueue(cleanup, _repeat=Repeat(times=2, interval=0.1))
    assert job is not None
    with working(app):
        notes.wait("cleanup", 3)


async def test_depending_on_another_job(app: Werk, notes: Notes) -> None:
    job_a = await app.enqueue(step, "one")
    await app.enqueue(step, "two", _depends_on=job_a)
    job_b = await app.enqueue(breaks)
    assert job_b is not None
    await app.enqueue(step, "three", _depends_on=Dependency(job_b, allow_failure=True))
    with working(app):
        notes.wait("two")
        notes.wait("three")
    assert notes.all().index("one") < notes.all().index("two")


async def test_bulk(app: Werk) -> None:
    jobs = await app.enqueue_many([EnqueueParams(func=my_func, kwargs={"n": i}, queue="bulk") for i in range(100)])
    assert [job.kwargs for job in jobs if job] == [{"n": i} for i in range(100)]


async def test_in_a_transaction_of_ones_own(app: Werk, dsn: str, schema: str) -> None:
    async with app, await psycopg.AsyncConnection.connect(dsn) as connection:
        _ = await connection.execute(f"create table {schema}.orders (id int)".encode())
        _ = await connection.execute(f"insert into {schema}.orders values (42)".encode())
        assert (await app.enqueue(my_func, x=42, _conn=connection)).id
        await connection.rollback()
        assert await app.list_jobs() == []
        assert (await app.enqueue(my_func, x=42, _conn=connection)).id
        await connection.commit()
        assert len(await app.list_jobs()) == 1


async def test_results(app: Werk) -> None:
    with working(app):
        assert await app.apply(my_func, x=1, n=2, timeout=20) == 3
        assert await app.map(my_func, [{"n": n} for n in range(5)], timeout=20, x=10) == [10, 11, 12, 13, 14]
        found = await app.map(breaks, [{}], timeout=20, return_exceptions=True)
        assert "broken" in str(found[0])


async def test_serializers(dsn: str) -> None:
    async with Werk(dsn, serializer=PickleSerializer()) as app:
        value = {1, 2, datetime(2025, 1, 1, tzinfo=UTC)}
        with working(app):
            assert await app.apply(handlers.echo, value, timeout=20) == value


async def test_inspecting(app: Werk) -> None:
    queued = await app.enqueue(my_func)
    assert queued is not None
    job_id = queued.id
    job = await app.get_job(job_id)
    assert job.function == "tests.aio.test_samples.my_func"
    assert await app.get_executions(job_id) == []
    assert await app.get_job_dependencies(job_id) == []
    assert await app.list_jobs(queue="default", status="queued", search="my_func", limit=10, offset=0) == [job]
    assert await app.list_jobs(retried=True) == []
    assert await app.cancel_job(job_id) is True
    assert await app.requeue_job(job_id) is True
    assert await app.abort_job(job_id) is True
    assert await app.sweep() == []
    assert await app.bulk_requeue_jobs(queue="default", function_name="tests.aio.test_samples.my_func") == 1
    assert await app.bulk_cancel_jobs(queue="default") == 1
    assert await app.purge_jobs(statuses=["aborted"], older_than_days=0) == 1
    await app.vacuum()


async def test_configuration(dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = WerkConfig(prefix="_jobs", sweep_interval=30.0)
    async with Werk(dsn, config=config, schema=schema) as app:
        assert (app.config.prefix, app.config.sweep_interval, app.config.schema) == ("_jobs", 30.0, schema)
        with pytest.raises(WerkError):
            await app.truncate()
    async with Werk(dsn, config={"allow_truncate": True, "schema": schema}) as app:
        _ = await app.enqueue(my_func)
        await app.truncate()
        assert await app.list_jobs() == []
    app = Werk(dsn, schema=schema, auto_migrate=False)
    assert await app.enqueue(my_func) is not None
    await app.close()


async def test_hooks_as_decorators(app: Werk) -> None:
    told: list[str] = []

    @app.on_startup
    async def init_cache() -> None:
        told.append("up")

    @app.on_shutdown
    def drop_cache() -> None:
        told.append("down")

    def label(job: Job) -> None:
        job.meta = {"label": 1}

    app.register_before_enqueue(label)
    async with app:
        job: Any = await app.enqueue(my_func)
        assert job.meta == {"label": 1}
        app.unregister_before_enqueue(label)
        job = await app.enqueue(my_func)
        assert job.meta is None
    assert told == ["up", "down"]
