"""A whole life of an app under each hostile setting: everything works, and every value that is read is right."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgwerk import EnqueueParams, Group, Job, JobStatus, Retry, ThreadWorker, Werk, WerkConfig
from pgwerk import aio as pgwerk_aio
from tests.exactness.helpers import enqueued
from tests.fixtures.workers import QUICK
from tests.settings.conftest import Hostile

HERE = "tests.settings.handlers"
SETTINGS: dict[str, dict[str, str]] = {
    "nothing": {},
    "date style": {"datestyle": "SQL, DMY", "intervalstyle": "sql_standard", "timezone": "Pacific/Kiritimati"},
    "german dates": {"datestyle": "German", "intervalstyle": "postgres_verbose", "timezone": "<+05:30>-05:30"},
    "postgres dates": {"datestyle": "Postgres, MDY", "intervalstyle": "iso_8601", "timezone": "America/St_Johns"},
    "strings": {"standard_conforming_strings": "off", "backslash_quote": "off", "bytea_output": "escape"},
    "serializable": {"default_transaction_isolation": "serializable", "default_transaction_deferrable": "on"},
    "repeatable read": {"default_transaction_isolation": "repeatable read"},
    "read only": {"default_transaction_read_only": "on"},
    "latin1 client": {"client_encoding": "LATIN1"},
    "ascii client": {"client_encoding": "SQL_ASCII"},
    "limits": {
        "idle_session_timeout": "150ms",
        "idle_in_transaction_session_timeout": "5s",
        "lock_timeout": "10s",
        "statement_timeout": "20s",
    },
    "search path": {"search_path": "nowhere"},
    "no search path": {"search_path": ""},
    "late pg_catalog": {"search_path": "public, pg_catalog"},
    "values": {"array_nulls": "off", "extra_float_digits": "-15", "transform_null_equals": "on"},
    "plans and words": {
        "plan_cache_mode": "force_custom_plan",
        "jit_above_cost": "0",
        "quote_all_identifiers": "on",
        "client_min_messages": "debug1",
    },
}
AT = datetime(2077, 11, 5, 6, 7, 8, 123456, tzinfo=UTC)
TEXT = "ünïcode 'quoted' \\1 %s {x} €"

Do = Callable[[Any], Any]


def live(app: Any, work: Callable[[], None], do: Do) -> None:
    """Enqueue in each form, run, look at everything. *do* awaits what the asyncio app returns."""
    began = datetime.now(UTC) - timedelta(seconds=1)

    def make(*args: Any, **kwargs: Any) -> Job:
        return enqueued(do(app.enqueue(*args, **kwargs)))

    one = make(f"{HERE}.work", TEXT, 1.1, _key=TEXT, _meta={"text": TEXT}, _timeout=12.25, _queue="mäil")
    assert do(app.enqueue(f"{HERE}.work", _key=TEXT)) is None
    for time in (one.enqueued_at, one.scheduled_at):
        assert time is not None
        assert began < time < datetime.now(UTC) + timedelta(seconds=1)
    later = make(f"{HERE}.work", _at=AT, _heartbeat=0.1 + 0.2)
    assert (later.status, later.scheduled_at) == (JobStatus.SCHEDULED, AT)
    failed = make(f"{HERE}.failing", TEXT)
    again = make(f"{HERE}.second_time", TEXT, _retry=Retry(2))
    children = do(
        app.enqueue_many(
            [EnqueueParams(f"{HERE}.work", (1,), depends_on=one, meta={"a": None}), EnqueueParams(f"{HERE}.work", (2,))]
        )
    )
    orphan = make(f"{HERE}.work", _depends_on=failed)
    assert (children[0].status, orphan.status) == (JobStatus.WAITING, JobStatus.WAITING)
    members = [make(f"{HERE}.work", n, _group=Group("gröup", limit=1), _ttl=3600.5) for n in range(3)]
    inline = enqueued(do(app.enqueue(f"{HERE}.work", TEXT, _sync=True)))
    assert (inline.status, inline.result) == (JobStatus.COMPLETE, [[TEXT], {}])

    work()

    found = do(app.get_job(one))
    assert (found.status, found.error) == (JobStatus.COMPLETE, None)
    assert (found.args, found.result) == ((TEXT, 1.1), [[TEXT, 1.1], {}])
    assert (found.key, found.meta, found.queue, found.timeout_secs) == (TEXT, {"text": TEXT}, "mäil", 12.25)
    assert (found.enqueued_at, found.scheduled_at) == (one.enqueued_at, one.scheduled_at)
    assert found.enqueued_at <= found.started_at <= found.completed_at
    assert do(app.get_job(later)).scheduled_at == AT
    assert do(app.get_job(later)).heartbeat_secs == 0.1 + 0.2
    failed = do(app.get_job(failed))
    assert (failed.status, failed.reason) == (JobStatus.FAILED, f"ValueError: {TEXT}")
    again = do(app.get_job(again))
    assert (again.status, again.result, again.attempts) == (JobStatus.COMPLETE, TEXT, 2)
    first, second = do(app.get_executions(again))
    assert (first.status, first.reason, second.status) == ("failed", f"ValueError: {TEXT}", "complete")
    assert began < first.started_at <= first.completed_at <= second.started_at <= second.completed_at
    for job in (*children, *members):
        assert do(app.wait_for(job, timeout=5)).status is JobStatus.COMPLETE
    assert do(app.get_job(orphan)).status is JobStatus.FAILED
    assert do(app.get_job_dependencies(orphan)) == [failed.id]
    assert {job.id for job in do(app.list_jobs(search="ünï"))} == {one.id}
    assert len(do(app.list_jobs())) == 11
    counts = {one.queue: one.counts for one in do(app.get_queue_stats())}
    assert counts == {"mäil": {"complete": 1}, "default": {"complete": 7, "failed": 2, "scheduled": 1}}
    (worker,) = do(app.list_workers())
    assert worker.status == "stopped"
    assert began < worker.started_at <= worker.heartbeat_at < datetime.now(UTC) + timedelta(seconds=1)
    assert do(app.update_job(later, priority=3, meta={"é": 1}))
    assert do(app.requeue_job(orphan))
    assert do(app.cancel_job(orphan))
    assert do(app.sweep()) == []
    do(app.vacuum())
    assert do(app.purge_jobs(older_than_days=0)) == 8


def settings() -> WerkConfig:
    return WerkConfig(**QUICK)  # type: ignore[arg-type]


def sync_life(dsn: str, schema: str | None) -> None:
    with Werk(dsn, schema=schema, config=settings()) as app:
        live(app, lambda: ThreadWorker(app, queues=["default", "mäil"], burst=True).run(), lambda value: value)


def aio_life(dsn: str, schema: str | None) -> None:
    async def main() -> None:
        async with pgwerk_aio.Werk(dsn, schema=schema, config=settings()) as app:
            await asyncio.to_thread(in_a_thread, app, asyncio.get_running_loop())

    def in_a_thread(app: Any, loop: asyncio.AbstractEventLoop) -> None:
        def do(value: Awaitable[Any]) -> Any:
            async def awaited() -> Any:
                return await value

            return asyncio.run_coroutine_threadsafe(awaited(), loop).result(60)

        worker = pgwerk_aio.ThreadWorker(app, queues=["default", "mäil"], burst=True)
        live(app, lambda: do(worker.run()), do)

    asyncio.run(main())


LIVES = pytest.mark.parametrize("life", [sync_life, aio_life], ids=["sync", "aio"])


@LIVES
@pytest.mark.parametrize("setting", SETTINGS)
def test_under_settings_of_the_role(hostile: Hostile, setting: str, life: Callable[[str, str | None], None]) -> None:
    life(hostile(SETTINGS[setting]), "werk é")


@LIVES
@pytest.mark.parametrize("setting", ["german dates", "serializable", "read only", "strings", "latin1 client"])
def test_under_settings_of_the_database(
    hostile: Hostile, setting: str, life: Callable[[str, str | None], None]
) -> None:
    life(hostile(SETTINGS[setting], of_database=True), None)


@LIVES
@pytest.mark.parametrize("name", ["PGCLIENTENCODING", "PGDATESTYLE", "PGTZ", "PGOPTIONS"])
def test_under_the_environment(
    hostile: Hostile,
    name: str,
    life: Callable[[str, str | None], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {
        "PGCLIENTENCODING": "SQL_ASCII",
        "PGDATESTYLE": "German",
        "PGTZ": "Pacific/Kiritimati",
        "PGOPTIONS": "-c datestyle=German -c default_transaction_isolation=serializable -c client_encoding=LATIN1",
    }
    monkeypatch.setenv(name, values[name])
    life(hostile(), None)


@LIVES
def test_in_a_database_without_an_encoding(hostile: Hostile, life: Callable[[str, str | None], None]) -> None:
    life(hostile(encoding="SQL_ASCII"), None)
