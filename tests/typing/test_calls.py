"""What type checkers see of `enqueue`, `apply`, `map` and of the workers, on both sides."""

import inspect
import typing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, assert_type

import pytest

import pgwerk
from pgwerk import Callback, Dependency, Group, Job, QueueStats, Repeat, Retry, WorkerInfo, aio
from pgwerk.workers.base import BaseWorker, WorkerSettings

plain = pgwerk.Werk("postgresql://nowhere/x")
awaited = aio.Werk("postgresql://nowhere/x")
AT = datetime(2030, 1, 1, tzinfo=UTC)


def length(text: str) -> int:
    return len(text)


async def fetched(text: str) -> bytes:
    return text.encode()


@plain.task(key="only one")
def single(text: str) -> int:
    return len(text)


@awaited.task(key="only one")
async def awaited_single(text: str) -> int:
    return len(text)


if TYPE_CHECKING:  # needs a database

    def enqueueing(job: Job) -> None:
        assert_type(plain.enqueue(length, "a"), Job)
        assert_type(plain.enqueue("tests.typing.test_calls.length", "a", _key=None), Job)
        assert_type(plain.enqueue(length, "a", _key="k"), Job | None)
        assert_type(plain.enqueue(single.options(key="k"), "a", _key=job.key), Job | None)
        assert_type(plain.enqueue_at(AT, length, "a"), Job)
        assert_type(plain.enqueue_at(AT, length, "a", _key="k"), Job | None)
        assert_type(plain.enqueue_in(timedelta(1), length, "a"), Job)
        assert_type(plain.enqueue_in(5, length, "a", _key="k"), Job | None)
        plain.enqueue(
            length, text="a", _queue="mail", _priority=3, _delay=timedelta(hours=1), _at=AT, _retry=3, _timeout=0.5,
            _heartbeat=5, _group=Group("g", 2), _meta={"a": 1}, _result_ttl=60, _failure_ttl=60.5, _ttl=timedelta(1),
            _on_success=length, _on_failure="a.b", _on_stopped=Callback(length), _repeat=Repeat(2),
            _depends_on=[job, job.id, Dependency(job, allow_failure=True)], _failure_mode="delete",
            _schedule_name="nightly", _conn=object(), _sync=True,
        )  # fmt: skip
        plain.enqueue(length, "a", _retry=Retry(2), _group="g", _depends_on={job.id})
        plain.enqueue(length, "a", _timeout="soon")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        plain.enqueue(length, "a", _failure_mode="forget")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        plain.enqueue_in("soon", length)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        plain.enqueue_at(AT, length, _priority="high")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        plain.enqueue(7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

    async def enqueueing_awaited() -> None:
        assert_type(await awaited.enqueue(length, "a"), Job)
        assert_type(await awaited.enqueue(length, "a", _key="k"), Job | None)
        assert_type(await awaited.enqueue(awaited_single, "a", _key="k"), Job | None)
        assert_type(await awaited.enqueue_at(AT, fetched, "a"), Job)
        assert_type(await awaited.enqueue_in(5, fetched, "a", _key="k"), Job | None)
        await awaited.enqueue(length, "a", _timeout="soon")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]

    def waiting() -> None:
        assert_type(plain.apply(length, "a", timeout=5), int)
        assert_type(plain.apply(fetched, "a", _key="k"), bytes)
        assert_type(plain.apply(single, "a"), int)
        assert_type(plain.apply("a.b", "a"), Any)
        assert_type(plain.map(length, [{"text": "a"}]), list[int])
        assert_type(plain.map(fetched, [{"text": "a"}], _queue="mail"), list[bytes])
        assert_type(plain.map(length, [{"text": "a"}], return_exceptions=True), list[Any])
        plain.apply(length, "a", timeout="soon")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        plain.apply(length, "a", _queue=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
        plain.map(length, [{"text": "a"}], _priority="high")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

    async def waiting_awaited() -> None:
        assert_type(await awaited.apply(length, "a"), int)
        assert_type(await awaited.apply(fetched, "a", timeout=5), bytes)
        assert_type(await awaited.apply(awaited_single, "a"), int)
        assert_type(await awaited.map(fetched, [{"text": "a"}]), list[bytes])
        await awaited.apply(length, "a", _retry="often")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

    async def looking() -> None:
        assert_type(plain.get_queue_stats(), list[QueueStats])
        assert_type(await awaited.get_queue_stats(), list[aio.QueueStats])
        assert_type(plain.list_workers(), list[WorkerInfo])
        assert_type(await awaited.list_workers(), list[aio.WorkerInfo])
        assert_type(plain.server_version(), str)
        assert_type((plain.dsn, awaited.schema, plain.prefix), tuple[str, str, str])

    def working() -> None:
        pgwerk.Worker(plain, ["mail"], 10, processes=2, burst=True, max_rss="600M", shutdown_timeout=5)
        pgwerk.ThreadWorker(plain, burst=True, heartbeat_interval=5, health_file="/run/ok")
        pgwerk.ProcessWorker(plain, max_jobs=3, sweep_interval=None)
        pgwerk.ForkWorker(plain, sigterm_grace=3, abort_interval=1)
        pgwerk.AsyncWorker(plain, poll_interval=1.5, before_process=[lambda ctx: ctx.job.id])
        aio.Worker(awaited, processes=2, burst=True)
        aio.AsyncWorker(awaited, concurrency=5, burst=True)
        pgwerk.Worker(plain, lanes=["mail"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        pgwerk.Worker(plain, burst="yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        pgwerk.ThreadWorker(plain, processes=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        pgwerk.ThreadWorker(plain, poll_interval="often")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        pgwerk.ProcessWorker(plain, max_job=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        pgwerk.ForkWorker(plain, sigterm_grace="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        pgwerk.AsyncWorker(plain, threads=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        aio.Worker(awaited, lanes=["mail"])  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        aio.ThreadWorker(awaited, poll_interval="often")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_the_settings_that_checkers_know_are_those_of_every_worker() -> None:
    parameters = inspect.signature(BaseWorker).parameters.values()
    keywords = {one.name: one.annotation for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    known = typing.get_type_hints(WorkerSettings)
    assert known.keys() == keywords.keys()
    assert {name: kind for name, kind in known.items() if name != "health_file"} == {
        name: kind for name, kind in keywords.items() if name != "health_file"
    }


@pytest.mark.parametrize("kind", ["Worker", "ThreadWorker", "ProcessWorker", "ForkWorker", "AsyncWorker"])
@pytest.mark.parametrize("package", [pgwerk, aio])
def test_a_setting_that_no_worker_has_is_refused_at_run_time_too(package: Any, kind: str) -> None:
    app = package.Werk("postgresql://nowhere/x")
    with pytest.raises(TypeError, match="lanes"):
        getattr(package, kind)(app, lanes=["mail"])
