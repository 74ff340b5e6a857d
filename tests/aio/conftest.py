"""Tests that are coroutine functions run here, each on a loop of its own; its apps are closed before that ends."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgwerk import WerkConfig
from pgwerk.aio import Werk
from tests.fixtures.workers import QUICK, thread_worker


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a coroutine function to its end."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def run() -> None:
        try:
            await pyfuncitem.obj(**given)
        finally:
            for value in given.values():
                if isinstance(value, Werk):
                    await value.close()

    asyncio.run(run())
    return True


@pytest.fixture
def app(dsn: str, schema: str) -> Iterator[Werk]:
    """An asyncio app; what it opened on the test's own loop is closed with that."""
    made = Werk(dsn, schema=schema, config=WerkConfig(allow_truncate=True, **QUICK))  # type: ignore[arg-type]
    yield made
    if "sync" in made.faces:
        made.sync.close()


@contextmanager
def working(app: Werk, **settings: Any) -> Iterator[Any]:
    """A worker in threads beside the loop, until the block ends; handlers get the synchronous face."""
    with thread_worker(app.sync, **settings) as worker:
        yield worker


async def until(check: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for something that only Postgres can tell."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110  # it happens in another process
            await asyncio.sleep(0.01)
