"""`werk worker`: every type of worker runs the jobs of an APP of either kind."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import Result

from pgwerk import Werk
from tests.fixtures.workers import eventually

ROOT = Path(__file__).resolve().parents[2]
TYPES = ["prefork", "thread", "process", "fork", "async"]
Run = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_worker_runs_jobs(process: Process, project: Path, dsn: str, schema: str, kind: str) -> None:
    app = Werk(dsn, schema=schema)
    job = app.enqueue(f"{project.name}.greet", "Ann")
    assert job is not None
    done = process("worker", f"{project.name}:app", "--worker-type", kind, "--burst", "--concurrency", "2")
    assert done.returncode == 0, done.stderr
    assert app.get_job(job).result == "hi Ann"
    app.close()


@pytest.mark.parametrize("kind", TYPES)
def test_an_asyncio_app_is_an_app_as_well_and_handlers_get_it(
    process: Process, project: Path, dsn: str, schema: str, kind: str
) -> None:
    (project.parent / f"{project.name}_aio.py").write_text(
        f"from pgwerk.aio import Werk\napp = Werk({dsn!r}, schema={schema!r})\n"
        "async def kind(ctx):\n    return type(ctx.app).__module__\n"
    )
    app = Werk(dsn, schema=schema)
    job = app.enqueue(f"{project.name}_aio.kind")
    assert job is not None
    done = process("worker", f"{project.name}_aio:app", "--worker-type", kind, "--burst", "--concurrency", "2")
    assert done.returncode == 0, done.stderr
    assert app.get_job(job).result == "pgwerk.aio.app"
    assert process("info", f"{project.name}_aio:app").returncode == 0
    app.close()


def test_help_has_one_line_for_each_type(werk: Run) -> None:
    page = werk("worker", "--help").output
    lines = page.partition("Worker types:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == TYPES


# --reload -------------------------------------------------------------------------


class Reloading:
    """A worker with --reload, and what it says."""

    def __init__(self, project: Path, log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pgwerk.cli", "worker", f"{project.name}:app", "--reload", "--processes", "1"],
                cwd=project.parent, stdout=out, stderr=out, env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )  # fmt: skip

    def says(self, text: str, times: int = 1) -> None:
        eventually(lambda: self.log.read_text().count(text) >= times, what=f"{times} times {text!r}")


@pytest.fixture
def reloading(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloading]:
    made = Reloading(project, tmp_path_factory.mktemp("log") / "out")
    yield made
    made.process.terminate()
    try:
        made.process.wait(20)
    finally:
        if made.process.poll() is None:
            made.process.kill()


def test_an_edit_starts_the_worker_again_with_the_new_code_and_a_mistake_waits_for_the_next(
    project: Path, reloading: Reloading, dsn: str, schema: str
) -> None:
    app = Werk(dsn, schema=schema)
    file = project.with_suffix(".py")
    reloading.says("supervisor", 1)
    assert app.apply(f"{project.name}.greet", "Ann", timeout=30) == "hi Ann"
    before = file.read_text()
    file.write_text(before.replace('"hi "', '"hello "'))
    reloading.says(f"{file.name} changed: restarting")
    eventually(lambda: app.apply(f"{project.name}.greet", "Ann", timeout=30) == "hello Ann")

    file.write_text(before + "def broken(:\n")
    reloading.says("Traceback (most recent call last)")
    reloading.says("SyntaxError")
    reloading.says("the worker exited with 1; waiting for a change")
    assert reloading.process.poll() is None
    file.write_text(before.replace('"hi "', '"welcome "'))
    assert app.apply(f"{project.name}.greet", "Ann", timeout=30) == "welcome Ann"

    (project.parent / "notes.txt").write_text("not code")
    reloading.process.send_signal(signal.SIGINT)
    assert reloading.process.wait(20) == 0
    assert reloading.log.read_text().count("changed: restarting") == 3
    assert {worker.status for worker in app.list_workers()} == {"stopped"}
    app.close()


def test_reload_without_its_extra_names_it(project: Path, process: Process) -> None:
    (project.parent / "watchfiles.py").write_text("raise ImportError('not here')")
    done = process("worker", f"{project.name}:app", "--reload", PYTHONPATH=f"{project.parent}:{ROOT}")
    assert done.returncode == 2
    assert "pip install 'pgwerk[reload]'" in done.stderr


def test_what_is_watched_is_the_project_and_not_the_environment(tmp_path: Path) -> None:
    from pgwerk.cli.reload import watched

    here = tmp_path / "here"
    (here / "shop").mkdir(parents=True)
    (here / "shop" / "__init__.py").touch()
    assert watched("shop.tasks", here) == [here]
    assert watched("click", here) == [here, Path(click.__file__).parent]
    assert watched("json", here)[0] == here
    assert watched("no_such_module", here) == [here]
    assert watched("sys", here) == [here]
