"""One app on several event loops, one after the other and at once, and on both sides of a fork."""

import asyncio
import gc
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import psycopg
import pytest

from pgwerk.aio import Werk
from tests.aio import handlers
from tests.exactness.helpers import in_a_fork
from tests.fixtures.loops import working
from tests.fixtures.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


def listening(pg: psycopg.Connection, schema: str) -> int:
    """How many connections have said LISTEN for a channel of this schema."""
    sql = "select count(*) from pg_stat_activity where query ilike 'listen%%' and query like %s"
    row = pg.execute(sql.encode(), [f"%{schema}%"]).fetchone()
    return int(row[0]) if row else 0


async def use(app: Werk, value: int) -> None:
    assert await app.apply(handlers.echo, value, timeout=30, poll_interval=3600) == value


@pytest.fixture
def strict() -> None:
    """What a destroyed task or connection has to say comes through a warning or a log; both fail a test."""
    warnings.simplefilter("error")


def test_one_loop_after_the_other(app: Werk, strict: None, caplog: pytest.LogCaptureFixture) -> None:
    with working(app):
        for number in range(4):
            asyncio.run(use(app, number))
            _ = gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_an_app_that_nobody_closes_leaves_nothing_behind(
    app: Werk, strict: None, pg: psycopg.Connection, schema: str, caplog: pytest.LogCaptureFixture, dsn: str
) -> None:
    other = Werk(dsn, schema=schema)
    with working(app):
        asyncio.run(use(other, 1))
    assert listening(pg, schema) <= 1
    del other
    _ = gc.collect()
    eventually(lambda: listening(pg, schema) == 0)
    assert [record for record in caplog.records if record.name == "asyncio"] == []


def test_two_loops_at_once(app: Werk, strict: None) -> None:
    errors: list[BaseException] = []

    async def many() -> None:
        _ = await asyncio.gather(*(use(app, number) for number in range(10)))
        await app.close()

    def loop() -> None:
        try:
            asyncio.run(many())
        except BaseException as error:  # noqa: BLE001  # shown below
            errors.append(error)

    with working(app):
        threads = [threading.Thread(target=loop) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_closing_on_one_loop_leaves_the_others_alone(app: Werk) -> None:
    with working(app), asyncio.Runner() as one, asyncio.Runner() as other:
        one.run(use(app, 1))
        other.run(use(app, 2))
        one.run(app.close())
        other.run(use(app, 3))
        one.run(use(app, 4))
        one.run(app.close())
        other.run(app.close())


def test_both_sides_of_a_fork(app: Werk, pg: psycopg.Connection) -> None:
    with working(app), asyncio.Runner() as runner:
        runner.run(use(app, 1))  # pool and listener are there

        def child() -> None:
            warnings.simplefilter("error")
            asyncio.run(use(app, 2))
            _ = gc.collect()

        assert in_a_fork(child) == 0
        runner.run(use(app, 3))
        runner.run(app.close())


def test_a_program_that_forgets_to_close_its_app_ends_quietly(dsn: str, schema: str) -> None:
    program = """
import asyncio, sys, warnings
warnings.simplefilter("error")
from pgwerk import JobTimeout
from pgwerk.aio import Werk
app = Werk(sys.argv[1], schema=sys.argv[2])
async def main():
    job = await app.enqueue("tests.aio.handlers.echo")
    try:
        await app.wait_for(job, timeout=0.2)
    except JobTimeout:
        print("fine")
    waiting = asyncio.create_task(app.wait_for(job))
    await asyncio.sleep(0.05)
asyncio.run(main())
"""
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program, dsn, schema],
        capture_output=True, text=True, check=False, timeout=30, cwd=ROOT,
    )  # fmt: skip
    # A machine that is busy lets the loop's debug mode say that something took 0.1 s.
    said = [line for line in ran.stderr.splitlines() if not line.startswith("Executing ")]
    assert (ran.stdout.strip(), said, ran.returncode) == ("fine", [], 0)
