"""What type checkers see of tasks, on both sides: run by mypy and pyright over this file, and for real."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, assert_type

import pgwerk
from pgwerk import Context, Job, aio
from pgwerk.aio.tasks import KeyedTask as AioKeyedTask
from pgwerk.sync.tasks import KeyedTask

plain = pgwerk.Werk("postgresql://nowhere/x")
awaited = aio.Werk("postgresql://nowhere/x")


@awaited.task
async def measure(text: str, times: int = 1) -> float:
    return float(len(text) * times)


@awaited.task(queue="mail")
def count(text: str) -> int:
    return len(text)


@awaited.task
async def informed(ctx: Context, text: str) -> list[str]:
    return [text, ctx.job.id]


@plain.task
def sync_count(ctx: Context, text: str) -> int:
    return len(text)


@plain.task(retry=3)
async def sync_measure(text: str) -> float:
    return float(len(text))


@awaited.task(key="k")
async def keyed(text: str) -> int:
    return len(text)


@plain.task(key="k", queue="mail")
def sync_keyed(ctx: Context, text: str) -> int:
    return len(text)


async def asynchronous() -> None:
    assert_type(await measure("a", times=2), float)
    assert_type(count("a"), int)
    if TYPE_CHECKING:  # needs a database
        assert_type(await measure.enqueue("a"), Job)
        assert_type(await measure.options(key="k").enqueue("a"), Job | None)
        assert_type(await measure.options(key="k").options(delay=5).enqueue("a"), Job | None)
        assert_type(await measure.options(delay=5).enqueue("a"), Job)
        assert_type(await keyed.enqueue("a"), Job | None)
        assert_type(await measure.apply("a", 2), float)
        assert_type(await count.apply(text="a"), int)
        assert_type(await count.apply_within(5, "a"), int)
        assert_type(await informed.apply("a"), list[str])
        assert_type(await measure.options(delay=5).apply("a"), float)
        assert_type(await plain.aio.get_job("x"), Job)
        assert_type(awaited.sync.get_job("x"), Job)
        assert_type(plain.aio.sync, pgwerk.Werk)
        assert_type(awaited.sync.aio, aio.Werk)
        await measure.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await count.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await informed.apply("a", 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def synchronous() -> None:
    made = sync_measure("a")
    _ = assert_type(made, Coroutine[Any, Any, float])
    made.close()
    if TYPE_CHECKING:
        assert_type(sync_count.apply("a"), int)
        assert_type(sync_measure.apply("a"), float)
        assert_type(sync_measure.enqueue("a"), Job)
        assert_type(sync_measure.options(key="k", queue="mail").enqueue("a"), Job | None)
        assert_type(sync_measure.options(key="k").options(delay=5).apply("a"), float)
        assert_type(sync_keyed.enqueue("a"), Job | None)
        assert_type(sync_keyed.options(priority=3).enqueue("a"), Job | None)
        assert_type(sync_keyed("a"), int)
        sync_count.options(timeout="soon")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        sync_count.options(lane="mail")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
        sync_keyed.options(lane="mail")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        plain.task(timeout="soon")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        plain.task(lane="mail")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
        awaited.task(retry="often")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
        plain.task(on_success=measure, depends_on="x", failure_mode="hold", conn=None, sync=False, at=None)
        sync_count.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_what_is_declared_runs() -> None:
    asyncio.run(asynchronous())
    synchronous()


def test_a_task_with_a_key_is_what_it_is_declared_to_be() -> None:
    for task, kind in ((sync_measure, KeyedTask), (measure, AioKeyedTask)):
        other = task.options(key="k")
        assert type(other) is kind
        assert type(other.options(delay=5)) is kind
        assert other.options(delay=5).__pgwerk_options__ == {**task.__pgwerk_options__, "key": "k", "delay": 5}
        assert type(task.options(delay=5)) is type(task)
    assert type(sync_keyed) is KeyedTask
    assert type(keyed) is AioKeyedTask
