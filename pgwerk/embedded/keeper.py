"""The process that owns a shared server: starts it, stops it when nobody uses it any more.

`python -m pgwerk.embedded.keeper DIR [SECONDS]` returns when the server is ready and leaves the
keeper behind, detached. Users hold a shared lock on DIR/users.lock, which the kernel gives back
when they die, so a kill -9 leaves nothing running. Should the keeper itself be killed, the kernel
stops Postgres.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from pgwerk.embedded import locks
from pgwerk.embedded.binaries import find
from pgwerk.embedded.cluster import Cluster
from pgwerk.embedded.server import Server
from pgwerk.errors import WerkError

LINGER = 10.0
"""Seconds without users before the server is stopped."""

RESTARTS = 5
"""How many times a server that crashed as a whole is restarted."""

LOG_LIMIT = 1_000_000

SETTINGS = {"max_connections": "200"}


def main(directory: str, linger: str = str(LINGER)) -> int:
    """Start the server and the keeper; report on standard error when that fails."""
    cluster = Cluster(Path(directory))
    try:
        lock = become_the_keeper(cluster)
    except WerkError as error:
        sys.stderr.write(str(error))
        return 1
    if lock is None:  # another keeper was quicker; its server is ready
        return 0
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        detach(cluster)
        keep(cluster, float(linger), writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        report = pipe.read()
    if report != "ready":
        sys.stderr.write(report or f"The keeper died; see {cluster.log}")
        return 1
    return 0


def become_the_keeper(cluster: Cluster, timeout: float = 60.0) -> int | None:
    """Take the keeper's lock; None when another keeper has a server ready."""
    deadline = time.monotonic() + timeout
    while (lock := locks.attempt(cluster.root / "keeper.lock")) is None:
        state = cluster.pidfile()
        if state is not None and state.ready:
            return None
        if time.monotonic() > deadline:
            raise WerkError(f"Another keeper of {cluster.root} is stuck; see {cluster.log}")
        time.sleep(0.02)
    return lock


def detach(cluster: Cluster) -> None:
    """Leave the terminal and the caller's pipes."""
    os.setsid()
    if cluster.log.exists() and cluster.log.stat().st_size > LOG_LIMIT:
        cluster.log.rename(cluster.log.with_suffix(".log.1"))
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(cluster.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    for sign in (signal.SIGHUP, signal.SIGINT):
        signal.signal(sign, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def keep(cluster: Cluster, linger: float, report: int) -> NoReturn:
    """Run the server until nobody has used it for `linger` seconds."""
    try:
        server = open_server(cluster)
    except (WerkError, OSError) as error:
        os.write(report, str(error).encode())
        sys.exit(1)
    try:
        os.write(report, b"ready")
        os.close(report)
        watch(server, linger)
    finally:
        server.stop("fast")
    sys.exit(0)


def open_server(cluster: Cluster) -> Server:
    """Create the cluster if need be and start it, on the port it had before if that is free."""
    major = cluster.major()
    try:
        binaries = find(major=major)
    except WerkError as error:
        if major is None:
            raise
        raise WerkError(
            f"{cluster.root} holds a cluster of Postgres {major}, which no other major version can "
            f"read. {error} Or name another directory."
        ) from error
    if major is None:
        cluster.create(binaries, sync=True)
    port_file = cluster.root / "port"
    try:
        server = Server(cluster, binaries, port=int(port_file.read_text()), settings=SETTINGS)
        server.start()
    except (OSError, ValueError, WerkError):
        server = Server(cluster, binaries, settings=SETTINGS)
        server.start()
    port_file.write_text(str(server.port))
    return server


def watch(server: Server, linger: float) -> None:
    """Return when nobody uses the server, it was stopped by hand, or its directory is gone.

    The start lock is held from the decision until the process ends, so that whoever comes at that
    moment waits for the stop and starts anew.
    """
    root = server.cluster.root
    last_used = time.monotonic()
    crashes = 0
    while server.cluster.data.exists():
        code = server.wait(min(0.5, linger / 4))
        if code is not None:
            crashes += 1
            if code == 0 or crashes > RESTARTS:
                return
            server.start()
        if locks.is_held(root / "users.lock"):
            last_used = time.monotonic()
        elif time.monotonic() - last_used >= linger:
            starting = locks.attempt(root / "start.lock")
            if starting is None:
                continue
            if locks.attempt(root / "users.lock") is not None:
                return
            locks.release(starting)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
