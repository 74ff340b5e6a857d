"""A role's statement_timeout is for calls; maintenance and migrations take their time, on any facade."""

import asyncio
from collections.abc import Callable

import psycopg
import pytest

from pgwerk import Werk
from pgwerk import aio as pgwerk_aio
from pgwerk.errors import DatabaseError
from tests.settings.conftest import Hostile

SLOWLY = {"statement_timeout": "200ms", "vacuum_cost_delay": "20ms", "vacuum_cost_limit": "1"}


def in_threads(dsn: str) -> None:
    with Werk(dsn) as app:
        app.vacuum()
        with pytest.raises(DatabaseError, match="statement_timeout"):
            slow(app)


def slow(app: Werk) -> None:
    from pgwerk._core.operation import Statement, nothing

    app._runtime.backend.run(Statement("select pg_sleep(5)", {}, nothing))


def in_tasks(dsn: str) -> None:
    async def main() -> None:
        async with pgwerk_aio.Werk(dsn) as app:
            await app.vacuum()

    asyncio.run(main())


@pytest.mark.parametrize("facade", [in_threads, in_tasks])
def test_a_vacuum_is_not_cut_by_the_limit_for_calls(hostile: Hostile, facade: Callable[[str], None]) -> None:
    dsn = hostile(SLOWLY)
    with Werk(dsn, auto_migrate=True) as app:
        for _ in range(5):
            app.enqueue("app.work", "x" * 1000)
    with psycopg.connect(dsn, autocommit=True) as other, pytest.raises(psycopg.errors.QueryCanceled):
        other.execute("vacuum (analyze) pgwerk._pgwerk_jobs")
    facade(dsn)
