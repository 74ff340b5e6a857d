"""Where the jobs are: a Postgres database or a Redis server for one contender, empty at the start of its turn."""

import contextlib
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.peers.environments import UnavailableError

APT = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", "redis-server")
REDIS_SETTINGS = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
START_SECONDS = 10.0


class Store(Protocol):
    """What a contender works on."""

    url: str

    def settle(self) -> None:
        """Let a backlog come to rest, so that every drain begins alike."""

    def count(self, questions: Sequence[str]) -> int:
        """Add up the answers to a contender's `unfinished`."""
        ...


class Database:
    """A database of its own in the throw-away server."""

    def __init__(self, connection: psycopg.Connection[Any], url: str) -> None:
        self.url = url
        self._connection = connection

    def settle(self) -> None:
        _ = self._connection.execute("vacuum analyze")
        _ = self._connection.execute("checkpoint")

    def count(self, questions: Sequence[str]) -> int:
        return sum(row[0] for text in questions for row in self._connection.execute(text.encode()))


@contextlib.contextmanager
def database(dsn: str) -> Iterator[Database]:
    name = f"bench_{secrets.token_hex(4)}"
    known: dict[str, Any] = {"host": "localhost", "port": "5432", "user": "postgres", **conninfo_to_dict(dsn)}
    # The one form of an address that every driver of every language reads.
    login = known["user"] + (f":{known['password']}" if "password" in known else "")
    url = f"postgresql://{login}@{known['host']}:{known['port']}/{name}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        _ = admin.execute(f"create database {name}".encode())
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                yield Database(connection, url)
        finally:
            _ = admin.execute(f"drop database {name} with (force)".encode())


class Redis:
    """A Redis server on a loopback port, spoken to in its inline form: no client is needed for numbers."""

    def __init__(self, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self._port = port

    def settle(self) -> None:
        """Nothing: it keeps no statistics, and writes its file every second anyway."""

    def count(self, questions: Sequence[str]) -> int:
        return sum(int(self._ask(question)[1:]) for question in questions)

    def empty(self) -> None:
        _ = self._ask("FLUSHALL SYNC")

    def version(self) -> tuple[int, ...]:
        for line in self._ask("INFO server").splitlines():
            if line.startswith("redis_version:"):
                return tuple(int(part) for part in line.partition(":")[2].split("."))
        return (0,)

    def _ask(self, command: str) -> str:
        with socket.create_connection(("127.0.0.1", self._port), timeout=30) as connection:
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        if answer.startswith("-"):
            raise ValueError(answer.splitlines()[0])
        return answer.removesuffix("+OK\r\n")  # to QUIT


@contextlib.contextmanager
def redis() -> Iterator[Redis]:
    """Run a Redis that syncs its append-only file every second; it ends with the block."""
    program = _redis_server()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as directory:
        address = ("--bind", "127.0.0.1", "--port", str(port), "--dir", directory)
        process = subprocess.Popen([program, *address, *REDIS_SETTINGS], stdout=subprocess.DEVNULL)
        try:
            server = Redis(port)
            until = time.monotonic() + START_SECONDS
            while True:
                try:
                    _ = server.version()
                    break
                except OSError as error:
                    if process.poll() is not None or time.monotonic() > until:
                        raise UnavailableError("redis-server does not start") from error
                    time.sleep(0.05)
            yield server
        finally:
            process.terminate()
            _ = process.wait(30)


def _redis_server() -> str:
    """Return the program; where Debian's tools are and may be used, it is installed."""
    if shutil.which("redis-server") is None and shutil.which("apt-get"):
        # RUNLEVEL=1 keeps the package from starting a server of its own.
        environ = {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        for command in (("apt-get", "update", "-qq"), APT):
            _ = subprocess.run(command, env=environ, capture_output=True, timeout=300, check=False)
    program = shutil.which("redis-server")
    if program is None:
        raise UnavailableError("redis-server is not installed (Debian: apt-get install redis-server)")
    return program
