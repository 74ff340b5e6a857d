"""Behind PgBouncer: in its transaction and session modes all works, in statement mode it is refused at once."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from pgwerk import ThreadWorker, Werk
from pgwerk import aio as pgwerk_aio
from pgwerk.errors import ConfigError
from tests.fixtures.workers import ROOT
from tests.settings.conftest import Hostile
from tests.settings.pooler import needs_pgbouncer, pgbouncer
from tests.settings.test_matrix import SETTINGS, aio_life, settings, sync_life

pytestmark = needs_pgbouncer

LIVES = pytest.mark.parametrize("life", [sync_life, aio_life], ids=["sync", "aio"])


@LIVES
@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("setting", ["nothing", "german dates", "serializable", "read only", "latin1 client"])
def test_a_life_behind_it(hostile: Hostile, mode: str, setting: str, life: Callable[[str, str | None], None]) -> None:
    with pgbouncer(hostile(SETTINGS[setting]), mode) as dsn:
        life(dsn, None)


def test_statement_mode_is_refused(hostile: Hostile) -> None:
    with pgbouncer(hostile(), "statement") as dsn:
        app = Werk(dsn, config=settings())
        calls: list[Callable[[], object]] = [app.connect, lambda: app.enqueue("tests.settings.handlers.work")]
        for call in calls:
            with pytest.raises(ConfigError, match="PgBouncer in statement mode") as caught:
                call()
            assert "secret" not in str(caught.value)
        for kind in (True, False):
            with pytest.raises(ConfigError, match="pool_mode = transaction"):
                ThreadWorker(app, burst=kind).run()
        app.close()

        async def main() -> None:
            other = pgwerk_aio.Werk(dsn, config=settings())
            with pytest.raises(ConfigError, match="PgBouncer in statement mode"):
                await other.enqueue("tests.settings.handlers.work")
            await other.close()

        asyncio.run(main())


def test_statement_mode_over_existing_tables_is_refused_by_each_worker_too(hostile: Hostile) -> None:
    direct = hostile()
    with Werk(direct) as app:
        app.migrate()
    with pgbouncer(direct, "statement") as dsn:
        app = Werk(dsn, config=settings(), auto_migrate=False)
        with pytest.raises(ConfigError, match="PgBouncer in statement mode"):
            ThreadWorker(app).run()
        app.close()


@pytest.mark.parametrize(
    ("words", "code"),
    [(["info"], 2), (["worker", "--worker-type", "thread"], 2), (["worker"], 1)],
    ids=["info", "thread", "prefork"],
)
def test_the_command_line_says_so_and_ends(hostile: Hostile, words: list[str], code: int) -> None:
    with pgbouncer(hostile(), "statement") as dsn:
        ended = subprocess.run(
            [sys.executable, "-m", "pgwerk.cli", *words, "--dsn", dsn],
            check=False, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        said = ended.stderr + ended.stdout
        assert ended.returncode == code, said
        assert "PgBouncer in statement mode" in said
        assert "Traceback" not in said
        assert "secret" not in said
