"""What a program enqueues of its own functions: a worker finds it, in whatever way the program was run."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import sys
from pgwerk import Callback, Retry, ThreadWorker, Werk

app = Werk({dsn!r}, schema={schema!r})
runs = []

class Hopeless(Exception): ...

def hello(name="world"):
    runs.append(name)
    return __name__

@app.task
def task(): return __name__

def fails(): raise Hopeless

def after(job): open("after", "a").write(__name__ + "\\n")

if __name__ == "__main__":
    first = app.enqueue(hello, _on_success=after)
    task.enqueue()
    app.enqueue(fails, _retry=Retry(3, no_retry=(Hopeless,)))
    app.enqueue("__main__.hello", "again")
    app.enqueue(hello, "at once", _sync=True)
    print(first.function)
    if "--work" in sys.argv:
        ThreadWorker(app, burst=True).run()
        print(runs)
    if "--prefork" in sys.argv:
        from pgwerk import Worker
        Worker(app, burst=True, processes=1).run()
"""

Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Run Python in the directory of the test."""

    def run(*args: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *args], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        )  # fmt: skip

    return run


@pytest.fixture
def rows(pg: psycopg.Connection, schema: str) -> Callable[[], list[Any]]:
    """Read what became of the jobs."""
    text = sql.SQL("select function, status, result, attempts from {} order by id")
    table = sql.Identifier(schema, "_pgwerk_jobs")
    return lambda: pg.execute(text.format(table)).fetchall()


def expected(module: str, inline: str = "__main__", ran: str | None = None) -> list[Any]:
    """What the jobs of the program are when a worker has imported *module*."""
    found = ran or module
    return [
        (f"{module}.hello", "complete", found, 1), (f"{module}.task", "complete", found, 1),
        (f"{module}.fails", "failed", None, 1), (f"{module}.hello", "complete", found, 1),
        (f"{module}.hello", "complete", inline, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "how", "module", "app"),
    [
        ("script.py", ["script.py"], "script", "script:app"),
        ("script.py", ["-m", "script"], "script", "script:app"),
        ("shop/__main__.py", ["-m", "shop"], "shop.__main__", "shop.__main__:app"),
        ("shop/tasks.py", ["-m", "shop.tasks"], "shop.tasks", "shop.tasks:app"),
        ("script.py", ["-m", "pdb", "-c", "continue", "-c", "quit", "script.py"], "script", "script:app"),
    ],
    ids=["script", "module", "package", "inside a package", "debugger"],
)
def test_a_worker_finds_the_functions_of_a_program(
    program: Program, tmp_path: Path, dsn: str, schema: str, rows: Callable[[], list[Any]],
    file: str, how: list[str], module: str, app: str,
) -> None:  # fmt: skip
    (tmp_path / file).parent.mkdir(exist_ok=True)
    if "/" in file:
        (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / file).write_text(PROGRAM.format(dsn=dsn, schema=schema))
    done = program(*how)
    assert f"{module}.hello" in done.stdout, done.stderr
    done = program("-m", "pgwerk.cli", "worker", app, "--burst", "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert [row for row in rows() if not row[0].endswith(".after")] == expected(module)
    assert (tmp_path / "after").read_text() == f"{module}\n"


@pytest.mark.parametrize("worker", ["--work", "--prefork"])
def test_a_program_that_works_itself_is_not_run_a_second_time(
    program: Program, tmp_path: Path, dsn: str, schema: str, rows: Callable[[], list[Any]], worker: str
) -> None:
    text = PROGRAM.replace('if __name__ == "__main__":', "if True:")
    (tmp_path / "script.py").write_text(text.format(dsn=dsn, schema=schema))
    done = program("script.py", worker)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("script.hello") == 1
    assert [row for row in rows() if not row[0].endswith(".after")] == expected("script", ran="__main__")
    if worker == "--work":
        assert "['at once', 'world', 'again']" in done.stdout or "['at once', 'again', 'world']" in done.stdout


@pytest.mark.parametrize(
    ("file", "how", "said"),
    [
        ("my-script.py", ["my-script.py"], "a file that a worker cannot import by its name"),
        ("shop/tasks.py", ["shop/tasks.py"], "Run `python -m shop.tasks` in the directory above."),
        ("queue.py", ["-P", "queue.py"], "and `import queue` finds another module"),
        ("script.py", ["-P", "script.py"], "whose directory is not in sys.path"),
        ("there/__main__.py", ["there"], "a worker cannot import"),
        ("script.py", ["-c", "exec(open('script.py').read())"], "in an interactive session"),
    ],
)
def test_what_no_worker_could_find_is_refused(
    program: Program, tmp_path: Path, dsn: str, schema: str, pg: psycopg.Connection,
    file: str, how: list[str], said: str,
) -> None:  # fmt: skip
    (tmp_path / file).parent.mkdir(exist_ok=True)
    if file.startswith("shop"):
        (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / file).write_text(PROGRAM.format(dsn=dsn, schema=schema))
    done = program(*how)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("pgwerk.errors.EnqueueError: hello cannot be enqueued: it is defined in ")
    assert said in last
    assert pg.execute("select to_regnamespace(%s) is null", [schema]).fetchone() == (True,), "something was written"


def test_a_process_that_multiprocessing_spawned(program: Program, tmp_path: Path, dsn: str, schema: str) -> None:
    text = PROGRAM.split("if __name__", maxsplit=1)[0].format(dsn=dsn, schema=schema)
    text += """
def child():
    assert hello.__module__ == "__mp_main__"
    print(app.enqueue(hello).function, Retry(2, no_retry=(Hopeless,)) and app.enqueue(fails).function)
if __name__ == "__main__":
    import multiprocessing
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
"""
    (tmp_path / "script.py").write_text(text)
    assert program("script.py").stdout == "script.hello script.fails\n"
