"""Hooks of an asyncio app: plain or coroutine functions, on whichever face something happens."""

import asyncio

import pytest

from pgwerk import EnqueueError, EnqueueParams, Job, WerkError
from pgwerk.aio import Werk
from tests.aio import handlers

pytestmark = pytest.mark.in_memory


async def test_startup_and_shutdown_hooks_are_awaited_in_order(app: Werk) -> None:
    told: list[str] = []

    @app.on_startup
    async def up() -> None:
        await asyncio.sleep(0)
        told.append("up")

    app.on_startup(lambda: told.append("plain up"))

    @app.on_shutdown
    async def down() -> None:
        await asyncio.sleep(0)
        told.append("down")

    async with app as entered:
        assert entered is app
        await app.connect()
        assert told == ["up", "plain up"]
    assert told == ["up", "plain up", "down"]
    await app.disconnect()
    assert told == ["up", "plain up", "down"]


async def test_of_many_that_connect_one_runs_the_hooks(app: Werk) -> None:
    told: list[str] = []

    async def up() -> None:
        told.append("up")
        await app.connect()  # a hook may

    app.on_startup(up)
    _ = await asyncio.gather(*(app.connect() for _ in range(10)))
    assert told == ["up"]


async def add_trace(job: Job) -> None:
    await asyncio.sleep(0)
    job.meta = {**(job.meta or {}), "trace": "abc"}


def raise_priority(job: Job) -> None:
    job.priority += 1


async def test_what_is_enqueued_passes_the_hooks(app: Werk) -> None:
    app.register_before_enqueue(add_trace)
    app.register_before_enqueue(raise_priority)
    one = await app.enqueue(handlers.echo)
    many = await app.enqueue_many([EnqueueParams(handlers.echo, (number,), priority=number) for number in range(3)])
    for number, job in enumerate([one, *many]):
        assert job is not None
        stored = await app.get_job(job)
        assert stored.meta == {"trace": "abc"}
        assert stored.priority == max(1, number)
    app.unregister_before_enqueue(add_trace)
    job = await app.enqueue(handlers.echo)
    assert job is not None
    assert job.meta is None


async def test_a_hook_that_raises_enqueues_nothing(app: Werk) -> None:
    async def refuse(job: Job) -> None:
        await asyncio.sleep(0)
        if job.args == (2,):
            raise PermissionError("not you")

    app.register_before_enqueue(refuse)
    with pytest.raises(PermissionError, match="not you"):
        _ = await app.enqueue_many([EnqueueParams(handlers.echo, (number,)) for number in range(4)])

    async def nonsense(job: Job) -> None:
        job.priority = 10**6

    app.unregister_before_enqueue(refuse)
    app.register_before_enqueue(nonsense)
    with pytest.raises(EnqueueError, match="before_enqueue"):
        _ = await app.enqueue(handlers.echo)
    assert await app.list_jobs() == []


async def test_the_synchronous_face_runs_coroutine_functions_too(app: Werk) -> None:
    told: list[str] = []

    async def up() -> None:
        await asyncio.sleep(0)
        told.append("up")

    app.on_startup(up)
    app.register_before_enqueue(add_trace)

    def in_a_thread() -> Job | None:
        app.sync.connect()
        return app.sync.enqueue(handlers.echo)

    job = await asyncio.to_thread(in_a_thread)
    assert told == ["up"]
    assert job is not None
    assert job.meta == {"trace": "abc"}
    with pytest.raises(WerkError, match=r"app\.aio"):
        _ = app.sync.enqueue(handlers.echo)
