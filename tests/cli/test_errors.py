"""What goes wrong is told in a paragraph, with the right exit code."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pgwerk.cli import COMMANDS

Run = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]


def test_help_lists_every_command_with_help_and_an_example(werk: Run) -> None:
    page = werk("--help")
    assert page.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in page.output
        own = werk(name, "--help")
        assert own.exit_code == 0
        assert f"Example{'s' if 'Examples' in own.output else ''}:\n" in own.output
        assert f"  werk {name}" in own.output
        assert not [line for line in own.output.splitlines() if line.endswith("  ")], "an option without help"


def test_help_imports_neither_driver_nor_rich(process: Process) -> None:
    done = process("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {"psycopg", "psycopg_pool", "rich", "asyncio", "pgwerk.sync.app"}


@pytest.mark.parametrize(
    ("app", "code", "said"),
    [
        ("nope.tasks:app", 2, "There is no module 'nope' to import 'nope.tasks:app' from"),
        ("SHOP:ap", 2, "has no attribute 'ap'. Did you mean 'app'?"),
        ("SHOP:nothing_like_it", 2, "Did you mean 'app'?"),
        ("SHOP:create_app", 2, "calls nothing to get an app"),
        ("SHOP:number", 2, "is not a Werk. Its type is int"),
        ("SHOP:Werk", 2, "It is a class"),
        ("SHOP", 2, "names a module; APP is module:attribute. Did you mean SHOP:app?"),
        ("dir/SHOP.py:app", 2, "Did you mean dir.SHOP:app?"),
        ("postgresql://u:secret@h/d", 2, "Pass it as --dsn"),
        (":app", 2, "module:attribute, for example"),
        ("SHOP_broken:app", 1, "SHOP_broken.py:2: ZeroDivisionError: division by zero"),
    ],
)
def test_an_app_that_is_none(werk: Run, project: Path, app: str, code: int, said: str) -> None:
    done = werk("info", app.replace("SHOP", project.name))
    assert done.exit_code == code
    assert said.replace("SHOP", project.name) in done.output
    assert "Traceback" not in done.output
    assert "secret" not in done.output
    assert len([line for line in done.output.splitlines() if line.startswith("Error: ")]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["wrker"], 2, "There is no command 'wrker'. Did you mean 'worker'?"),
        (["worker"], 2, "Or name your app: werk worker myapp.tasks:app."),
        (["info", "--dsn", "host=x porrt=3"], 2, "the DSN cannot be read"),
        (["info", "--dsn", "postgresql://u:secret@127.0.0.1:1/d"], 1, "does not answer"),
        (["info", "a:b", "--dsn", "x", "--schema", "y"], 2, "APP and --dsn and --schema do not go together"),
        (["jobs", "--dsn", "x", "--status", "done"], 2, "'done' is not a job status; choose from scheduled"),
        (["jobs", "--dsn", "x", "--limit", "0"], 2, "--limit"),
        (["job", "--dsn", "x"], 2, "Give the id of one job"),
        (["job", "xyz", "--dsn", "x"], 2, "'xyz' is neither a job id nor module:attribute"),
        (["migrate", "--dsn", "x", "--check", "--sql"], 2, "give one of them"),
        (["worker", "--dsn", "x", "--log-level", "loud"], 2, "one of DEBUG, INFO"),
        (
            ["worker", "--dsn", "x", "--worker-type", "thread", "--max-jobs", "1"],
            2,
            "needs --worker-type prefork or pr",
        ),
        (
            ["worker", "--dsn", "x", "--worker-type", "process", "--processes", "1"],
            2,
            "--processes needs --worker-type",
        ),
        (["worker", "--dsn", "x", "--sigterm-grace", "1"], 2, "needs --worker-type fork, not prefork"),
        (["worker", "--dsn", "x", "--worker-type", "greenlet"], 2, "'prefork', 'thread', 'process', 'fork', 'async'"),
        (["worker", "--dsn", "x", "--reload"], 2, "--reload needs an APP"),
        (["worker", "--dsn", "x", "--burst", "--health-file", "/no/where"], 2, "/no/where' cannot be written: No such"),
        (["worker", "--dsn", "x", "--max-rss", "lots"], 2, "max_rss='lots'"),
        (["worker", "--dsn", "x", "--queues", "a,,b"], 2, "give at least one name, and no empty ones"),
    ],
)
def test_wrong_calls(process: Process, arguments: list[str], code: int, said: str) -> None:
    done = process(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_traceback_on_demand(process: Process) -> None:
    dsn = ["info", "--dsn", "postgresql://127.0.0.1:1/d"]
    for done in (process("--debug", *dsn), process(*dsn, PGWERK_DEBUG="1")):
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "ConnectionFailed" in done.stderr


def test_tables_that_are_not_there(werk: Run, dsn: str, schema: str) -> None:
    done = werk("info", "--dsn", dsn, "--schema", schema)
    assert done.exit_code == 1
    assert "Run `werk migrate`" in done.output
    done = werk("job", "--dsn", dsn, "--schema", schema, "0197c2f0-6f0c-7b7e-9d0a-3a1d1c3b2a10")
    assert done.exit_code == 1


def test_a_reader_that_has_seen_enough(dsn: str, schema: str, process: Process) -> None:
    assert process("migrate", "--dsn", dsn, "--schema", schema).returncode == 0
    line = f'"$PYTHON" -m pgwerk.cli migrate --sql --schema {schema} | true; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, env={**os.environ, "PYTHON": sys.executable}
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
