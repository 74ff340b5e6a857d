"""A directory with a Postgres cluster in it, and the few files that lie beside the cluster."""

import contextlib
import os
import secrets
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pgwerk.embedded import programs
from pgwerk.embedded.binaries import Binaries
from pgwerk.errors import WerkError

USER = "postgres"


@dataclass(frozen=True)
class PidFile:
    """What a postmaster says about itself in postmaster.pid."""

    pid: int
    port: int
    ready: bool


@dataclass(frozen=True)
class Cluster:
    """The files of one embedded server. Loopback is open to every local user, hence a password."""

    root: Path

    @property
    def data(self) -> Path:
        """Postgres' data directory; it exists only when initdb has finished."""
        return self.root / "data"

    @property
    def log(self) -> Path:
        """What the server and its keeper had to say."""
        return self.root / "server.log"

    def dsn(self, port: int) -> str:
        """Return the DSN of the superuser."""
        password = (self.root / "password").read_text().strip()
        return f"postgresql://{USER}:{password}@127.0.0.1:{port}/postgres"

    def major(self) -> int | None:
        """Return the major version the cluster belongs to, None when there is no cluster yet."""
        try:
            return int((self.data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None

    def create(self, binaries: Binaries, *, sync: bool) -> None:
        """Run initdb. An interrupted one leaves nothing that the next one would trip over."""
        mode = programs.mode_for(self.data)
        unfinished = self.root / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        secret = self.root / "password"
        write_private(secret, secrets.token_urlsafe(24))
        for_initdb = self.root / "password.new"
        write_private(for_initdb, secret.read_text())
        if owner := programs.other_user(mode):
            self.root.chmod(0o711)
            os.chown(unfinished, *owner)
            os.chown(for_initdb, *owner)
        initdb: list[str | Path] = [binaries.bindir / "initdb", "-D", unfinished, "-U", USER]
        initdb += ["--encoding=UTF8", "--locale=C"]  # sorts alike on every version and system
        initdb += ["--auth=scram-sha-256", f"--pwfile={for_initdb}"]
        if not sync:
            initdb.append("--no-sync")
        try:
            programs.run(mode, initdb)
            unfinished.rename(self.data)
        finally:
            for_initdb.unlink(missing_ok=True)
            shutil.rmtree(unfinished, ignore_errors=True)

    def pidfile(self) -> PidFile | None:
        """Return the contents of postmaster.pid, None when it is absent or still being written."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return PidFile(int(lines[0]), int(lines[3]), lines[7].strip() == "ready")
        except (OSError, ValueError, IndexError):
            return None

    def await_vacancy(self, timeout: float = 60.0) -> None:
        """Wait until an earlier postmaster is gone, and clear away the pid file of a dead one.

        Postgres removes a stale file itself, except when the pid is a zombie's or has been given to
        another process (small pids in a container): then it would refuse to start for ever. It
        still looks for surviving backends through shared memory.
        """
        deadline = time.monotonic() + timeout
        zombie_since: float | None = None
        while sys.platform == "linux" and (old := self._recorded_pid()) is not None:
            state = self._state_of(old)
            if state == "gone":
                return
            if state == "zombie":
                zombie_since = zombie_since or time.monotonic()
            if state == "stranger" or (zombie_since and time.monotonic() - zombie_since > 2):
                (self.data / "postmaster.pid").unlink(missing_ok=True)
                return
            if time.monotonic() > deadline:
                raise WerkError(f"A Postgres (pid {old}) already runs on {self.data}. Stop it first: kill -INT {old}")
            time.sleep(0.02)

    def _recorded_pid(self) -> int | None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return abs(int((self.data / "postmaster.pid").read_text().splitlines()[0]))
        return None

    def _state_of(self, pid: int) -> str:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            if stat.rpartition(")")[2].split()[0] in "ZX":
                return "zombie"
            cwd = Path(f"/proc/{pid}/cwd").readlink()
        except (FileNotFoundError, ProcessLookupError):
            return "gone"
        except PermissionError:
            return "gone"  # another user's process: Postgres sees that by itself
        return "postgres" if cwd == self.data.resolve() else "stranger"


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(path, flags, 0o600), "w") as file:
        file.write(text)
