"""`werk worker --reload`: start the worker again whenever its code changes. For development."""

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from pgwerk import logs
from pgwerk.cli.target import Target

logger = logging.getLogger("pgwerk.reload")

LOOK_MS = 200
"""Milliseconds between looks at the worker while no file changes."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""A terminal that is closed says HUP: nobody is there any more to read what the worker says."""


def run_again_and_again(target: Target, log_level: str | None, log_format: str | None) -> int:
    """Run the same command line without --reload, in a fresh interpreter each time; its exit code at the end."""
    if target.app is None:
        raise click.UsageError("--reload needs an APP: it watches the files that APP is imported from.")
    try:
        import watchfiles  # noqa: PLC0415  # an extra
    except ImportError:
        raise click.UsageError("--reload needs watchfiles: pip install 'pgwerk[reload]'.") from None
    logs.configure_logging(level=log_level, format=log_format)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    paths = watched(target.app.partition(":")[0], Path.cwd())
    return _Reloader(own_command(sys.argv[1:]), paths, watchfiles).run()


def own_command(arguments: Sequence[str]) -> list[str]:
    """The command to run in a fresh interpreter; it shows tracebacks, which is what a developer looks for."""
    rest = [argument for argument in arguments if argument not in ("--reload", "--debug")]
    return [sys.executable, "-m", "pgwerk.cli", "--debug", *rest]


def watched(module: str, here: Path) -> list[Path]:
    """Name the directories that a project's code lies in: the current one, and where its package comes from."""
    paths = {here}
    sys.path.insert(0, str(here))
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    finally:
        sys.path.remove(str(here))
    if spec is not None and spec.origin not in (None, "built-in", "frozen"):
        origin = Path(str(spec.origin)).resolve()
        home = origin.parent
        installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")}
        if home not in installed:
            paths.add(home)
    outer = sorted(paths, key=lambda path: len(path.parts))
    return [path for path in outer if not any(other in path.parents for other in outer)]


class _Reloader:
    def __init__(self, command: Sequence[str], paths: Sequence[Path], watchfiles: Any) -> None:
        self._command = command
        self._paths = paths
        self._watchfiles = watchfiles
        self._process: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()

    def run(self) -> int:
        logger.info("restarting when a Python file changes in %s", ", ".join(map(str, self._paths)))
        with self._signals():
            self._start()
            for changes in self._changes():
                code = self._code()
                if changes and not self._over.is_set():
                    self._again(sorted({Path(path) for _, path in changes}))
                elif code == 0:
                    break
                elif code is not None:
                    logger.error("the worker exited with %d; waiting for a change", code)
                    self._process = None
            return self._stopped()

    def _changes(self) -> Iterator[set[tuple[Any, str]]]:
        """The changes, and an empty set every now and then."""
        found: Iterator[set[tuple[Any, str]]] = self._watchfiles.watch(
            *self._paths,
            watch_filter=self._watchfiles.PythonFilter(),
            rust_timeout=LOOK_MS,
            yield_on_timeout=True,
            stop_event=self._over,
            raise_interrupt=False,
        )
        return found

    def _code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def _start(self) -> None:
        # A group of its own: Ctrl-C comes from us, or it would come twice and mean something else.
        self._process = subprocess.Popen(self._command, process_group=0)

    def _again(self, paths: Sequence[Path]) -> None:
        others = f" and {len(paths) - 1} others" if len(paths) > 1 else ""
        logger.info("%s%s changed: restarting", os.path.relpath(paths[0]), others)
        if self._code() is None and self._process is not None:
            self._process.terminate()
            _ = self._process.wait()
        if not self._over.is_set():
            self._start()

    def _stopped(self) -> int:
        if self._process is None:
            return 1
        code = self._process.wait()
        return 128 - code if code < 0 else code

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def pass_on(number: int, _frame: FrameType | None) -> None:
            if number in ENDING:
                self._over.set()
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM if number in ENDING else number)

        before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
        try:
            yield
        finally:
            for number, handler in before.items():
                _ = signal.signal(number, handler)
