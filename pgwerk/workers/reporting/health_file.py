"""A file whose age says whether a worker is healthy, for a container's probe."""

import contextlib
import json
import logging
import os
import time
from pathlib import Path

from pgwerk.errors import ConfigError

logger = logging.getLogger("pgwerk.worker")


class HealthFile:
    """One line of JSON, replaced as a whole: whoever reads it never sees half of it."""

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        self.path = Path(path).absolute()
        self._beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self._failed = False

    def start(self) -> None:
        """Write it for the first time; raises ConfigError."""
        try:
            self._write("starting")
        except OSError as error:
            raise ConfigError(
                f"health_file={str(self.path)!r} cannot be written: {error.strerror or error}. "
                "Name a file in a directory that exists and that this user may write to."
            ) from error

    def renew(self, state: str) -> None:
        """Write it again; the first failure is logged, none is raised."""
        try:
            self._write(state)
        except OSError as error:
            if not self._failed:
                logger.warning("the health file %s cannot be written any more: %s", self.path, error)
            self._failed = True
        else:
            self._failed = False

    def _write(self, state: str) -> None:
        line = {"state": state, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "pid": os.getpid()}
        try:
            _ = self._beside.write_text(json.dumps(line) + "\n")
            _ = self._beside.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                self._beside.unlink()
            raise

    def remove(self) -> None:
        """Remove it: the worker has ended as it should."""
        with contextlib.suppress(OSError):
            self.path.unlink()
