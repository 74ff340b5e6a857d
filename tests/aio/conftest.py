"""Tests that are coroutine functions run here, each on a loop of its own; its apps are closed before that ends."""

import asyncio
import inspect
from collections.abc import Iterator

import pytest

from pgwerk import WerkConfig
from pgwerk.aio import Werk
from tests.fixtures.loops import working as working  # noqa: PLC0414  # it used to be here
from tests.fixtures.waiting import until as until  # noqa: PLC0414  # and this, too
from tests.fixtures.workers import QUICK, place_of


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
def app(request: pytest.FixtureRequest, dsn: str, migrated: str) -> Iterator[Werk]:
    """An asyncio app; what it opened on the test's own loop is closed with that."""
    made = Werk(place_of(request, dsn), schema=migrated, config=WerkConfig(allow_truncate=True, **QUICK))  # type: ignore[arg-type]
    yield made
    if "sync" in made._app.faces:
        made.sync.close()
