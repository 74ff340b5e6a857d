"""What type checkers see of tasks, on both sides: run by mypy and pyright over this file, and for real."""

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, assert_type

import pgwerk
from pgwerk import Context, Job, aio

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


async def asynchronous() -> None:
    assert_type(await measure("a", times=2), float)
    assert_type(count("a"), int)
    if TYPE_CHECKING:  # needs a database
        assert_type(await measure.enqueue("a"), Job | None)
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
        assert_type(sync_measure.enqueue("a"), Job | None)
        sync_count.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_what_is_declared_runs() -> None:
    await asynchronous()
    synchronous()
