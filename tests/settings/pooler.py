"""A real PgBouncer of the test's own."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.fixtures.workers import eventually

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def pgbouncer(dsn: str, mode: str, **settings: str) -> Iterator[str]:
    """Run PgBouncer in this mode in front of the database of *dsn*; the DSN through it comes back."""
    assert PROGRAM is not None
    parts, port = urlsplit(dsn), free_port()
    place = Path(tempfile.mkdtemp(prefix="pgwerk-pgbouncer-"))
    users, ini = place / "users.txt", place / "pgbouncer.ini"
    users.write_text(f'"{parts.username}" "{parts.password}"\n')
    more = {"default_pool_size": "5", **settings}
    ini.write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port}\n"
        "[pgbouncer]\nlisten_addr = 127.0.0.1\nunix_socket_dir =\nauth_type = trust\nmax_client_conn = 200\n"
        f"listen_port = {port}\nauth_file = {users}\npool_mode = {mode}\n"
        + "".join(f"{name} = {value}\n" for name, value in more.items())
    )
    # It refuses to run as root.
    user = pwd.getpwnam("nobody") if os.getuid() == 0 else None
    if user is not None:
        for path in (place, users, ini):
            os.chown(path, user.pw_uid, user.pw_gid)
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, str(ini)],
            stdout=log,
            stderr=log,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
        )
    through = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()

    def answers() -> bool:
        assert process.poll() is None, (place / "log").read_text()
        try:
            psycopg.connect(through).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        eventually(answers, what="PgBouncer's answer")
        yield through
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(place, ignore_errors=True)
