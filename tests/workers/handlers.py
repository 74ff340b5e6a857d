"""Handlers for the tests of workers; they tell what they did through a table of the test's own."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

import psycopg

from pgwerk import Context, shield


def note(what: str) -> None:
    """Write down that something happened, durably and outside of any transaction of the worker's."""
    with psycopg.connect(os.environ["TEST_NOTES_DSN"], autocommit=True) as connection:
        query = f"insert into {os.environ['TEST_NOTES_TABLE']} (what, pid) values (%s, %s)"
        connection.execute(query.encode(), [what, os.getpid()])


def noop() -> None:
    return None


def add(a: int, b: int) -> int:
    return a + b


def echo(value: Any) -> Any:
    return value


def noted(name: str) -> str:
    note(name)
    return name


def slow(name: str, seconds: float) -> str:
    note(f"start {name}")
    time.sleep(seconds)
    note(f"end {name}")
    return name


def nap(seconds: float) -> None:
    """Sleep in small steps, so that an interruption arrives."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.005)


def long_nap(name: str, seconds: float) -> str:
    note(f"start {name}")
    nap(seconds)
    note(f"end {name}")
    return name


def timed_nap(name: str, seconds: float) -> None:
    """Sleep in small steps, and write down when that ends, however it does."""
    note(f"start {name}")
    try:
        nap(seconds)
    finally:
        note(f"end {name}")


def stubborn(seconds: float) -> None:
    """Sleep in C, where no exception arrives."""
    time.sleep(seconds)


def query(seconds: float) -> int:
    with psycopg.connect(os.environ["TEST_NOTES_DSN"], autocommit=True) as connection:
        try:
            connection.execute("select pg_sleep(%s)", [seconds])
        except psycopg.errors.QueryCanceled:
            # The connection must be usable after it.
            note(f"after cancel {connection.execute('select 41 + 1').fetchone()}")
            raise
    return 1


def fail(message: str = "no") -> None:
    raise ValueError(message)


def flaky(ctx: Context, times: int) -> int:
    if ctx.job.attempts <= times:
        raise RuntimeError(f"attempt {ctx.job.attempts}")
    return ctx.job.attempts


def raises(name: str) -> None:
    kinds: dict[str, type[BaseException]] = {
        "SystemExit": SystemExit,
        "KeyboardInterrupt": KeyboardInterrupt,
        "CancelledError": asyncio.CancelledError,
        "MemoryError": MemoryError,
        "GeneratorExit": GeneratorExit,
    }
    raise kinds[name]("on purpose")


def recurse() -> None:
    recurse()


def exit_hard(code: int = 7) -> None:
    os._exit(code)


def segfault() -> None:
    ctypes.string_at(0)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_parent(name: str) -> None:
    note(f"start {name}")
    os.kill(os.getppid(), signal.SIGKILL)
    nap(60)


def kill_tree(name: str) -> None:
    note(f"start {name}")
    os.killpg(0, signal.SIGKILL)


def large_nap(name: str, megabytes: int, seconds: float) -> None:
    kept = bytearray(os.urandom(1)) * (megabytes * 2**20)
    note(f"start {name}")
    nap(seconds)
    del kept


def grow(megabytes: int) -> None:
    """Use memory, and keep it."""
    _hoard.append(b"x" * (megabytes * 2**20))


_hoard: list[bytes] = []


def set_result() -> Any:
    return {1, 2, 3}


def object_result() -> Any:
    return object()


def big(size: int) -> str:
    return "x" * size


async def coroutine(value: int) -> int:
    await asyncio.sleep(0)
    return value + 1


def with_progress(ctx: Context) -> str:
    ctx.progress(0.5, "half")
    return str(ctx.worker.name)


def until_stopping(ctx: Context, name: str) -> str:
    note(f"start {name}")
    until = time.monotonic() + 30
    while not ctx.stopping and time.monotonic() < until:
        time.sleep(0.005)
    note(f"stopping {name}")
    return name


def on_end(job: Any) -> None:
    note(f"callback {job.function.rpartition('.')[2]} {job.status.value} {job.id}")


def on_end_ctx(ctx: Context) -> None:
    note(f"ctx callback {ctx.job.status.value} {ctx.job.id}")


def bad_callback(job: Any) -> None:
    note(f"bad callback {job.id}")
    raise RuntimeError("the callback failed")


def started_at() -> str:
    return datetime.now(UTC).isoformat()


def in_group(name: str, group: str) -> None:
    """Overlap with another member of the group would be seen as a second row."""
    note(f"enter {group} {name}")
    time.sleep(0.001)
    note(f"leave {group} {name}")


def python_version() -> list[int]:
    return list(sys.version_info[:2])


def shielded(seconds: float) -> None:
    with shield():
        nap(seconds)
        note("shield ends")
    nap(30)
    note("not reached")


_started: list[int] = []


def remember_start() -> None:
    _started.append(os.getpid())


def was_started() -> bool:
    return os.getpid() in _started


async def async_nap(name: str, seconds: float) -> str:
    note(f"start {name}")
    await asyncio.sleep(seconds)
    note(f"end {name}")
    return name


async def async_shielded() -> None:
    with shield():
        await asyncio.sleep(0.5)
        note("shield ends")
    await asyncio.sleep(30)
    note("not reached")


async def async_stubborn(name: str) -> None:
    """Swallow every cancellation."""
    note(f"start {name}")
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)


async def async_blocking(name: str, seconds: float) -> None:
    note(f"start {name}")
    time.sleep(seconds)  # noqa: ASYNC251  # on purpose


async def async_cancels_itself() -> None:
    raise asyncio.CancelledError("by itself")


async def async_task_that_exits() -> str:
    async def leave() -> None:
        raise SystemExit(3)

    task = asyncio.create_task(leave())
    _ = await asyncio.wait([task])
    return "went on"


async def loop_id() -> int:
    return id(asyncio.get_running_loop())


def thread_name() -> str:
    return threading.current_thread().name


async def async_sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


def logs_without_end(path: str) -> None:
    """Do nothing but log, to a file that flushes each line."""
    logger, handler = logging.getLogger("busy"), logging.FileHandler(path)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        while True:
            logger.warning("busy")
    finally:
        logger.removeHandler(handler)
        handler.close()


def stops_the_coordinator() -> None:
    """Make the thread that keeps this worker alive wait for ever, as a lock that was left taken would."""
    import gc

    from pgwerk.workers.coordinating.coordinator import Coordinator

    for coordinator in [one for one in gc.get_objects() if type(one) is Coordinator]:
        coordinator._step = threading.Event().wait  # type: ignore[method-assign]
