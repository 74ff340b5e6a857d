"""What the documents show about workers, asked of `pgwerk.aio`."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pgwerk.aio import (
    AsyncWorker,
    Context,
    DequeueStrategy,
    ForkWorker,
    Job,
    JobStatus,
    ProcessWorker,
    ThreadWorker,
    Werk,
    Worker,
)
from tests.aio import handlers
from tests.fixtures.waiting import until
from tests.fixtures.workers import Notes

_ = pytest.importorskip("pgwerk.workers.awaitable")

QUICK = {"shutdown_timeout": 10.0}
KINDS = [AsyncWorker, ThreadWorker, ProcessWorker, ForkWorker]


async def greet(name: str) -> str:
    return f"Hello, {name}!"


async def stopped(worker: Any, running: "asyncio.Task[None]") -> None:
    worker.stop()
    await asyncio.wait_for(running, 30)


async def test_the_minimal_example(app: Werk) -> None:
    async with app:
        job = await app.enqueue(greet, name="world")
        worker = AsyncWorker(app=app, queues=["default"], concurrency=5)
        running = asyncio.create_task(worker.run())
        assert job is not None
        assert (await app.wait_for(job, timeout=20)).result == "Hello, world!"
        await stopped(worker, running)


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_in_burst_mode(app: Werk, kind: Callable[..., Any]) -> None:
    jobs = [await app.enqueue(greet, name=f"{number}") for number in range(5)]
    worker = kind(app=app, concurrency=4, burst=True)
    await worker.run()
    for number, job in enumerate(jobs):
        assert job is not None
        found = await app.get_job(job)
        assert (found.status, found.result) == (JobStatus.COMPLETE, f"Hello, {number}!"), found.error


async def test_the_prefork_default(app: Werk) -> None:
    job = await app.enqueue(greet, name="world")
    assert job is not None
    await Worker(app, processes=1, concurrency=2, burst=True).run()
    assert (await app.get_job(job)).status is JobStatus.COMPLETE


@pytest.mark.parametrize("strategy", DequeueStrategy)
async def test_dequeue_strategies(app: Werk, strategy: DequeueStrategy) -> None:
    for queue in ("a", "b", "c"):
        _ = await app.enqueue(greet, name=queue, _queue=queue)
    worker = AsyncWorker(app=app, queues=["a", "b", "c"], dequeue_strategy=strategy, burst=True)
    await worker.run()
    assert {job.status for job in await app.list_jobs()} == {JobStatus.COMPLETE}


async def test_hooks_around_jobs(app: Werk) -> None:
    told: list[str] = []

    async def log_start(ctx: Context) -> None:
        told.append(f"start {ctx.job.function.rpartition('.')[2]}")

    async def log_end(ctx: Context) -> None:
        told.append(f"failed: {ctx.exception}" if ctx.exception else "completed")

    _ = await app.enqueue(greet, name="world")
    worker = AsyncWorker(app=app, before_process=[log_start], after_process=[log_end], burst=True)
    await worker.run()
    assert told == ["start greet", "completed"]
    _ = await app.enqueue(handlers.fail)
    worker = AsyncWorker(app=app, burst=True)
    worker.add_before_process(log_start)
    worker.add_after_process(log_end)
    await worker.run()
    assert told[2:] == ["start fail", "failed: on purpose"]


async def test_exception_handlers(app: Werk) -> None:
    told: list[str] = []

    async def report_error(job: Job, exc: BaseException) -> None:
        told.append(f"report {exc}")

    def first(job: Job, exc: BaseException) -> None:
        told.append("first")

    _ = await app.enqueue(handlers.fail)
    worker = AsyncWorker(app=app, burst=True)
    worker.push_exception_handler(report_error)
    worker.push_exception_handler(first)
    await worker.run()
    assert told == ["first", "report on purpose"]
    assert worker.pop_exception_handler() is first


async def test_beside_a_web_server(app: Werk, notes: Notes) -> None:
    async with app:
        worker = AsyncWorker(app=app)

        async def run_web_server() -> None:
            _ = await app.enqueue(handlers.noted, "from the server")
            await until(lambda: notes.count("from the server") == 1)
            worker.stop()

        async with asyncio.timeout(30):
            _ = await asyncio.gather(run_web_server(), worker.run())


async def test_a_context_of_a_handler(app: Werk) -> None:
    job = await app.enqueue(handlers.with_context, 3)
    assert job is not None
    worker = AsyncWorker(app=app, burst=True)
    await worker.run()
    assert (await app.get_job(job)).result == ["pgwerk.aio.app", 1, worker.name, 3]
