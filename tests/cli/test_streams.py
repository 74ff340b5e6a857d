"""Output that goes nowhere: a paragraph or silence, the exit code as usual, never a traceback."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pgwerk import EnqueueParams, Werk

ROOT = Path(__file__).resolve().parents[2]
Shell = Callable[[str], tuple[str, str]]


@pytest.fixture
def shell() -> Shell:
    """Run a line of bash in which werk is the program; its exit code is $code. What it wrote comes back."""

    def run(line: str) -> tuple[str, str]:
        werk = f"{shlex.quote(sys.executable)} -m pgwerk.cli"
        done = subprocess.run(
            ["bash", "-c", line.replace("werk ", werk + " ")], capture_output=True, text=True, timeout=100, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        return done.stdout, done.stderr

    return run


@pytest.fixture
def options(dsn: str, schema: str) -> str:
    """Where jobs are, of which a list is more than fits into a pipe."""
    with Werk(dsn, schema=schema) as app:
        _ = app.enqueue_many([EnqueueParams(func="elsewhere.shop.bill", args=(number,)) for number in range(3000)])
    return f"--dsn {shlex.quote(dsn)} --schema {schema}"


def test_a_reader_that_has_seen_enough(shell: Shell, options: str) -> None:
    line = "werk jobs {} --limit 3000 {} | head -n 1; echo ${{PIPESTATUS[0]}}"
    for more, first in (("", "ID "), ("--json", "[")):
        out, err = shell(line.format(options, more))
        assert out.startswith(first)
        assert (out.splitlines()[1:], err) == (["0"], "")
    assert shell(f"werk info {options} | true; echo ${{PIPESTATUS[0]}}") == ("0\n", "")
    assert shell("werk --help | true; echo ${PIPESTATUS[0]}") == ("0\n", "")
    assert shell("werk jobs --help | true; echo ${PIPESTATUS[0]}") == ("0\n", "")


FULL = "Error: the output could not be written: No space left on device.\n"
CLOSED = "Error: the output could not be written: Bad file descriptor.\n"


@pytest.mark.parametrize("command", ["info", "info --json", "jobs --limit 1", "jobs --limit 3000", "migrate --check"])
def test_an_output_that_is_full_or_closed(shell: Shell, options: str, command: str) -> None:
    assert shell(f"werk {command} {options} > /dev/full; echo $?") == ("1\n", FULL)
    assert shell(f"werk {command} {options} >&-; echo $? >&2") == ("", f"{CLOSED}1\n")


@pytest.mark.parametrize("command", ["--help", "--version", "worker --help", "migrate --sql"])
def test_the_same_without_a_database(shell: Shell, command: str) -> None:
    where = "--dsn postgresql://localhost/d" if command.startswith("migrate") else ""
    assert shell(f"werk {command} {where} > /dev/full; echo $?") == ("1\n", FULL)
    assert shell(f"werk {command} {where} >&-; echo $? >&2") == ("", f"{CLOSED}1\n")


@pytest.mark.parametrize("nowhere", ["2>/dev/full", "2>&-", ">&- 2>&-", ">/dev/full 2>/dev/full", "2>&- <&-"])
def test_the_exit_code_tells_where_nothing_else_can(shell: Shell, nowhere: str) -> None:
    for command, code in (("wrker", 2), ("info --dsn mysql://h/d", 2), ("info --dsn postgresql://127.0.0.1:1/d", 1)):
        assert shell(f"(werk {command} {nowhere}); echo $?") == (f"{code}\n", "")


def test_what_is_written_gets_there_although_remarks_do_not(shell: Shell, options: str) -> None:
    # The remark that there are more.
    out, err = shell(f"werk jobs {options} --limit 2 2>/dev/full; echo $?")
    assert (len(out.splitlines()), out.splitlines()[-1], err) == (4, "0", "")


def test_a_standard_input_that_is_closed(shell: Shell, options: str) -> None:
    out, err = shell(f"werk info {options} <&-; echo $?")
    assert (out.splitlines()[-1], err) == ("0", "")


@pytest.mark.parametrize(
    "line",
    [
        "mysql://u:hunter2@h/d", "info postgresql://u:hunter2@h/d", "info 'host=h password=hunter2'",
        "info u:hunter2@h/d", "info a:b postgresql://u:hunter2@h", "job postgresql://u:hunter2@h/d",
        "job u:hunter2@h", "info --dsn=mysql://u:hunter2@h/d", "info --dsn 'postgresql://u:my hunter2@h'",
        "jobs --limit postgresql://u:hunter2@h", "info --dns postgresql://u:hunter2@h",
        "worker --dsn 'host=h password=my hunter2' --burst", "migrate --dsn postgresql://u:hunter2/@h --check",
        "info --dsn postgresql://u:hunter2@127.0.0.1:1/d", "--debug info --dsn postgresql://u:hunter2@127.0.0.1:1/d",
        "--debug info --dsn postgresql://u:hunter2%@127.0.0.1:1/d",
        "worker --log-level debug --burst --dsn postgresql://u:hunter2@127.0.0.1:1/d",
    ],
)  # fmt: skip
def test_a_dsn_is_not_repeated_wherever_it_was_written(shell: Shell, line: str) -> None:
    out, err = shell(f"werk {line}; echo $?")
    assert out in ("1\n", "2\n")
    assert "Error: " in err
    assert "hunter2" not in err
