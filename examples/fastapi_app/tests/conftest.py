"""A database of its own for this run, made before the app is imported: DATABASE_URL says where it is.

Tests are coroutine functions, each run on a loop of its own with the application started on it.
"""

import asyncio
import contextlib
import inspect
import os
import secrets
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pgwerk import embedded
from pgwerk.aio import AsyncWorker, Werk

ENDING = pytest.StashKey[contextlib.ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    stack = config.stash[ENDING] = contextlib.ExitStack()
    given = os.environ.get("PGWERK_TEST_DSN")
    server = given or stack.enter_context(embedded.temporary()).dsn
    name = f"fastapi_app_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    stack.callback(_drop, server, name)
    parts = {"port": "", "password": "", **conninfo_to_dict(server)}
    os.environ["DATABASE_URL"] = "postgresql://{user}:{password}@{host}:{port}/{name}".format(**parts, name=name)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[ENDING].close()


def _drop(server: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)".encode())


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Run a coroutine function, with the application started around it."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    given = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(_started(pyfuncitem.obj, given))
    return True


async def _started(test: Callable[..., Any], given: dict[str, Any]) -> None:
    from examples.fastapi_app.app import app, werk  # noqa: PLC0415  # DATABASE_URL is set by now
    from examples.fastapi_app.database import Base, sessions  # noqa: PLC0415

    async with app.router.lifespan_context(app):
        # Before rather than after: the tests with real processes leave rows behind, too.
        for job in await werk.list_jobs(limit=1000):
            await werk.delete_job(job)
        async with sessions()() as session:
            for table in Base.metadata.sorted_tables:
                await session.execute(table.delete())
            await session.commit()
        try:
            await test(**given)
        finally:
            if client := given.get("client"):
                await client.aclose()


@pytest.fixture
def werk() -> Werk:
    from examples.fastapi_app.app import werk  # noqa: PLC0415  # see above

    return werk


@pytest.fixture
def client() -> httpx.AsyncClient:
    """A client of the application, without a server between them."""
    from examples.fastapi_app.app import app  # noqa: PLC0415  # see above

    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


class Web:
    """What the pages of the world answer in a test."""

    def __init__(self) -> None:
        self.pages: dict[str, httpx.Response] = {}
        self.asked: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        return self.pages.get(str(request.url), httpx.Response(503))

    def shows(self, url: str, text: str, status: int = 200) -> None:
        self.pages[url] = httpx.Response(status, text=text)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Web:
    from examples.fastapi_app import tasks  # noqa: PLC0415  # see above

    made = Web()
    monkeypatch.setattr(tasks, "fetcher", lambda: httpx.AsyncClient(transport=httpx.MockTransport(made.answer)))
    return made


@pytest.fixture
def work(werk: Werk) -> Callable[[], Any]:
    """Run what is queued, as coroutines on the loop of the test."""
    return lambda: AsyncWorker(werk, queues=["pages"], concurrency=2, burst=True).run()
