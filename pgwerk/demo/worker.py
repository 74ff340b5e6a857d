"""`werk worker` in a process of its own, which never outlives the demo."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

APP = "pgwerk.demo.app:app"
SHUTDOWN_SECONDS = 15.0
_SET_DEATH_SIGNAL = 1


class WorkerProcess:
    """A running `werk worker`; what it says goes to a file, out of the way of the progress bar."""

    def __init__(self, dsn: str, queue: str, processes: int) -> None:
        self.arguments = ["worker", APP, "--queues", queue, "--processes", str(processes)]
        self.arguments += ["--concurrency", str(2 * processes)]
        handle, name = tempfile.mkstemp(prefix="pgwerk-demo-", suffix=".log")
        self.log = Path(name)
        # Old sources are full of escapes that newer Pythons warn about.
        env = {**os.environ, "PGWERK_DSN": dsn, "PGWERK_LOG_LEVEL": "INFO", "PYTHONWARNINGS": "ignore::SyntaxWarning"}
        with os.fdopen(handle, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pgwerk.cli", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                # Ctrl-C is ours to handle; and the kernel tells the worker when we are killed.
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # no threads yet
            )

    @property
    def ended(self) -> str | None:
        """How it ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def said(self, lines: int = 5) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Let it finish what runs and end, give the rest back; kill it if that takes too long."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                _ = self._process.wait(SHUTDOWN_SECONDS)
            except subprocess.TimeoutExpired:
                # Its children notice by their pipe that it is gone.
                self._process.kill()
                _ = self._process.wait()

    def forget_log(self) -> None:
        """Remove the log; nobody will want to read it."""
        self.log.unlink(missing_ok=True)


def _end_with_parent() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
