"""`embedded://` DSNs: one server a directory, shared by whoever names it."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from pgwerk.embedded import locks, programs
from pgwerk.embedded.cluster import Cluster
from pgwerk.errors import WerkError

SCHEME = "embedded://"

START_TIMEOUT = 120.0
"""Seconds; a first start runs initdb, and a start may have to wait for a stop."""

_held: dict[Path, int] = {}
"""Our shared locks. They are never given back: the kernel does that when the process is gone."""


def resolve(dsn: str, *, environ: Mapping[str, str] | None = None) -> str:
    """Start or join the server of an `embedded://` DSN and return a `postgresql://` one.

    `embedded://` alone keeps its data in the user's data directory, `embedded:///abs/dir` and
    `embedded://relative/dir` where they say. Any other DSN is returned as it is. The server is safe
    (fsync is on), outlives this process while others use it, and stops about 10 seconds after the
    last of them is gone; PGWERK_EMBEDDED_LINGER changes that. Its password is in DIR/password.
    """
    if not dsn.startswith(SCHEME):
        return dsn
    environ = os.environ if environ is None else environ
    cluster = Cluster(directory(dsn, environ))
    try:
        cluster.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (cluster.root / "PG_VERSION").exists():
            raise WerkError(
                f"{cluster.root} is itself a data directory of Postgres; an embedded server keeps "
                "its own in a subdirectory. Name another directory."
            )
        with locks.exclusive(cluster.root / "start.lock", START_TIMEOUT):
            if cluster.root not in _held:
                _held[cluster.root] = locks.share(cluster.root / "users.lock")
            return cluster.dsn(running_port(cluster) or start_keeper(cluster, environ))
    except OSError as error:
        raise WerkError(f"Cannot use {cluster.root} for an embedded Postgres: {error}") from error


def directory(dsn: str, environ: Mapping[str, str]) -> Path:
    """Return the absolute directory an `embedded://` DSN stands for."""
    rest = dsn.removeprefix(SCHEME)
    if "?" in rest or "#" in rest:
        raise WerkError(f"{dsn}: an embedded:// DSN names a directory and takes no options.")
    if rest:
        return Path(unquote(rest)).expanduser().resolve()
    base = environ.get("XDG_DATA_HOME", "")
    if not Path(base).is_absolute():  # the XDG specification: a relative one is to be ignored
        base = str(Path(environ.get("HOME") or Path.home()) / ".local" / "share")
    return (Path(base) / "pgwerk").resolve()


def running_port(cluster: Cluster) -> int | None:
    """Return the port of a server that is up and looked after; one without a keeper is dying."""
    state = cluster.pidfile()
    if state is None or not state.ready or not locks.is_held(cluster.root / "keeper.lock"):
        return None
    return state.port


def start_keeper(cluster: Cluster, environ: Mapping[str, str]) -> int:
    """Start the process that looks after the server, and wait until the server is ready."""
    package_parent = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (package_parent, os.environ.get("PYTHONPATH"))))
    command = [programs.python(), "-m", "pgwerk.embedded.keeper", str(cluster.root)]
    if linger := environ.get("PGWERK_EMBEDDED_LINGER"):
        command.append(linger)
    kept = {"PG_BIN", "PATH"} & environ.keys()
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, **{name: environ[name] for name in kept}, "PYTHONPATH": path},
        timeout=START_TIMEOUT,
        check=False,
    )
    state = cluster.pidfile()
    if done.returncode or state is None:
        raise WerkError(done.stderr.strip() or f"The embedded Postgres did not start: {cluster.log}")
    return state.port
