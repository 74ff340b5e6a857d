"""The command line and jobs in memory: what cannot be says so, and a worker in this process works."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Process = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with an app in memory, which enqueues a job where it is imported."""
    (tmp_path / "in_memory.py").write_text(
        "from pgwerk import Werk\n"
        "app = Werk('memory://trial')\n"
        "def greet(name):\n    print('hi', name, flush=True)\n"
        "app.enqueue('in_memory.greet', 'Ann')\n"
    )
    monkeypatch.chdir(tmp_path)
    return "in_memory:app"


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_worker_in_this_process_runs_what_was_enqueued_there(process: Process, module: str, kind: str) -> None:
    done = process("worker", module, "--worker-type", kind, "--burst")
    assert done.returncode == 0, done.stderr
    assert "hi Ann" in done.stdout


@pytest.mark.parametrize("kind", [None, "prefork", "process", "fork"])
def test_what_forks_is_refused(process: Process, module: str, kind: str | None) -> None:
    done = process("worker", module, *(["--worker-type", kind] if kind else []), "--burst")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: The jobs of in_memory:app are in memory://trial")
    assert "--worker-type thread or async" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["info"], ["jobs"], ["job"], ["migrate"], ["migrate", "--check"]], ids=" ".join)
def test_from_another_process_there_is_nothing_to_see(process: Process, module: str, command: list[str]) -> None:
    done = process(*command, module, *(["00000000-0000-7000-8000-000000000001"] if command == ["job"] else []))
    assert (done.returncode, done.stdout) == (2, "")
    assert "in the memory of the process that enqueues them" in done.stderr
    assert 'Werk("embedded://")' in done.stderr


@pytest.mark.parametrize("command", [["worker", "--worker-type", "thread"], ["info"], ["jobs"]], ids=" ".join)
def test_without_an_app_there_are_no_jobs_at_all(process: Process, command: list[str]) -> None:
    done = process(*command, "--dsn", "memory://")
    assert (done.returncode, done.stdout) == (2, "")
    assert "in which there are no jobs" in done.stderr
