"""The command line, called in this process and in others."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pgwerk.cli import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has in its environment is not tested."""
    for name in list(os.environ):
        if name.startswith(("PGWERK_", "DATABASE_URL")) or name in ("PGHOST", "PGDATABASE", "PGSERVICE", "NO_COLOR"):
            monkeypatch.delenv(name)


@pytest.fixture
def werk() -> Callable[..., Result]:
    """Run `werk` in this process."""
    return lambda *args: CliRunner().invoke(cli, list(args))


@pytest.fixture
def process() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run `werk` in a process of its own."""

    def run(*args: str, **env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pgwerk.cli", *args], capture_output=True, text=True, timeout=100, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        )  # fmt: skip

    return run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dsn: str, schema: str) -> Iterator[Path]:
    """A directory with a small application in it, which is the current one."""
    name = f"shop_{schema}"
    (tmp_path / f"{name}.py").write_text(
        f"""
from pgwerk import Werk
app = Werk({dsn!r}, schema={schema!r})
number = 3
def create_app():
    raise SystemError("called")
def greet(name):
    return "hi " + name
def fail(text):
    raise ValueError(text)
"""
    )
    (tmp_path / f"{name}_broken.py").write_text("x = 1\ny = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path / name
    sys.path[:] = before
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(name)]:
        del sys.modules[loaded]
