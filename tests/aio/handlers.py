"""What the jobs of these tests run."""

import asyncio
import threading
from typing import Any

from pgwerk import Context
from tests.workers.handlers import note


async def echo(value: Any = None) -> Any:
    await asyncio.sleep(0)
    return value


def plain_echo(value: Any = None) -> Any:
    return value


async def fail(message: str = "on purpose") -> None:
    raise ValueError(message)


async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def with_context(ctx: Context, value: int) -> list[Any]:
    return [type(ctx.app).__module__, ctx.job.attempts, ctx.worker.name, value]


def thread_name() -> str:
    return threading.current_thread().name


async def the_loop() -> int:
    return id(asyncio.get_running_loop())


async def third_time(ctx: Context) -> int:
    if ctx.job.attempts < 3:
        raise ValueError(f"attempt {ctx.job.attempts}")
    return ctx.job.attempts


async def noted(text: str) -> str:
    note(text)
    return text


def on_end(job: Any) -> None:
    note(f"callback {job.status.value}")


started = asyncio.Event()
"""Set by `until_cancelled`; a test that uses it makes a new one."""
cancelled: list[str] = []


async def until_cancelled(name: str) -> None:
    started.set()
    try:
        _ = await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.append(name)
        raise


entered = threading.Event()
release = threading.Event()


def blocks(name: str) -> str:
    """Wait in a thread until `release` is set."""
    entered.set()
    assert release.wait(30)
    return name


async def nested(ctx: Context, value: int) -> Any:
    inner = await ctx.app.enqueue(echo, value, _sync=True)
    return inner.result
