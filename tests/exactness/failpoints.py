"""Ending a worker's process, or its connection, before any statement and after any commit that it makes."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from pgwerk import ThreadWorker, Werk, WerkConfig
from pgwerk._core.operation import Statement
from tests.fixtures.inside import inside
from tests.fixtures.workers import QUICK


class FailPoint:
    """Counts what the present thread asks of Postgres from the first claim on, and strikes at number *at*."""

    def __init__(self, app: Werk, at: int, strike: Callable[[Any], None]) -> None:
        self._at = at
        self._strike = strike
        self._thread = threading.get_ident()
        self._counting = False
        self.reached = 0
        executor = inside(app).backend
        self._send = executor._send
        self._walk = executor._walk
        executor._send = self.send
        executor._walk = self.walk

    def _tick(self, connection: Any) -> None:
        if self._counting and threading.get_ident() == self._thread:
            self.reached += 1
            if self.reached == self._at:
                self._strike(connection)

    def send(self, connection: Any, statement: Statement[Any]) -> Any:
        """Before a statement."""
        if "granted as" in statement.sql and threading.get_ident() == self._thread:
            self._counting = True
        self._tick(connection)
        return self._send(connection, statement)

    def walk(self, connection: Any, op: Any, *more: Any) -> Any:
        """After a commit, before anybody has seen its answer."""
        result = self._walk(connection, op, *more)
        self._tick(connection)
        return result


def kill(_connection: Any) -> None:
    """End this process as a crash would."""
    os.kill(os.getpid(), signal.SIGKILL)


def cut(connection: Any) -> None:
    """Break the connection under psycopg."""
    with socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)
    raise psycopg.OperationalError("cut")


def burst_with(dsn: str, schema: str, at: int, strike: Callable[[Any], None], worker_id: str | None = None) -> bool:
    """Run a burst that is struck at *at*; whether it got that far."""
    app = Werk(dsn, schema=schema, config=WerkConfig(**QUICK))  # type: ignore[arg-type]
    app.connect()
    try:
        worker = ThreadWorker(app, concurrency=2, burst=True)
        if worker_id is not None:
            worker.id = worker_id
        point = FailPoint(app, at, strike)
        worker.run()
    finally:
        app.close()
    return point.reached >= at


def killed_at(dsn: str, schema: str, at: int, worker_id: str) -> int:
    """Run a burst that is killed at *at*, in a fresh process; how that ended.

    Not in a fork of the tests' own process, some thread of which may just hold a lock of OpenSSL's.
    """
    words = [dsn, schema, str(at), worker_id]
    return subprocess.run(
        [sys.executable, "-m", "tests.exactness.failpoints", *words], timeout=120, check=False
    ).returncode


if __name__ == "__main__":
    logging.getLogger("pgwerk").setLevel(logging.CRITICAL)
    burst_with(sys.argv[1], sys.argv[2], int(sys.argv[3]), kill, sys.argv[4])
