"""Run Postgres' programs: as which user, in which environment."""

import functools
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from pgwerk.errors import WerkError

LAUNCH = Path(__file__).with_name("launch.py")


def python() -> str:
    """Return a Python interpreter; inside uwsgi and the like, sys.executable is something else."""
    if Path(sys.executable).name.startswith("python"):
        return sys.executable
    return str(Path(sys.prefix) / "bin" / "python3")


def environment() -> dict[str, str]:
    """Return our environment without what would change Postgres: PG*, locale, time zone."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def mode_for(data: Path) -> str:
    """Return how to run programs on this data directory, in the words of launch.py.

    Postgres refuses root, and initdb refuses a uid without a name: both get a user namespace where
    the kernel allows one. Else root becomes `postgres` or `nobody`. A cluster that exists is run by
    its owner, whatever was possible when it was made.
    """
    uid = os.geteuid()
    if uid != 0:
        return "same" if _has_name(uid) or not namespaces_work() else "namespace"
    try:
        owner = (data / "PG_VERSION").stat()
    except OSError:
        pass
    else:
        if owner.st_uid:
            return f"{owner.st_uid}:{owner.st_gid}"
    if namespaces_work():
        return "namespace"
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return f"{user.pw_uid}:{user.pw_gid}"
    raise WerkError("Postgres does not run as root, and there is no user postgres or nobody.")


def other_user(mode: str) -> tuple[int, int] | None:
    """Return the (uid, gid) that must own the data directory, if it is not ourselves."""
    uid, colon, gid = mode.partition(":")
    return (int(uid), int(gid)) if colon else None


@functools.cache
def namespaces_work() -> bool:
    """Say whether the kernel (or a container's seccomp profile) lets us have a user namespace."""
    if sys.platform != "linux" or os.environ.get("PGWERK_EMBEDDED_NAMESPACE") == "0":
        return False
    command = command_line("namespace", signal.SIGKILL, [python(), "-I", "-S", "-c", ""])
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def command_line(mode: str, on_parent_death: int, command: Sequence[str | Path]) -> list[str]:
    """Return the argument list that runs `command` through launch.py."""
    launcher = [
        python(),
        "-I",
        "-S",
        str(LAUNCH),
        mode,
        str(os.getpid()),
        str(int(on_parent_death)),
    ]
    return [*launcher, *map(str, command)]


def run(mode: str, command: Sequence[str | Path]) -> None:
    """Run a program to its end; its output is in the error when it fails."""
    done = subprocess.run(
        command_line(mode, signal.SIGTERM, command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        env=environment(),
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        hint = ""
        if other_user(mode):
            hint = (
                " Postgres does not run as root, and this system allows no user namespaces, so "
                f"it runs as uid {mode.partition(':')[0]}, who must be able to reach the directory "
                "and the binaries: choose another directory, or run this as an ordinary user."
            )
        raise WerkError(f"{Path(command[0]).name} failed:{hint}\n{said}")


def spawn(mode: str, command: Sequence[str | Path], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Start a program that gets SIGINT when we die, in a session no Ctrl-C reaches."""
    return subprocess.Popen(
        command_line(mode, signal.SIGINT, command),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env=environment(),
        start_new_session=True,
    )


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
