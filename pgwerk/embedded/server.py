"""A running Postgres: a child process that dies with us."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pgwerk.embedded import programs
from pgwerk.embedded.binaries import Binaries
from pgwerk.embedded.cluster import Cluster
from pgwerk.errors import WerkError

StopMode = Literal["smart", "fast", "immediate"]

SIGNALS: dict[StopMode, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}


class Server:
    """Postgres on 127.0.0.1, started and stopped at will; every start uses the same port.

    The kernel stops it when the thread that called `start()` ends, so call it from one that lasts.
    """

    def __init__(
        self,
        cluster: Cluster,
        binaries: Binaries,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.cluster = cluster
        self.binaries = binaries
        self.settings = dict(settings or {})
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bindir(self) -> Path:
        """Where the programs of this server are (pg_basebackup, pg_dump, …, as far as shipped)."""
        return self.binaries.bindir

    @property
    def port(self) -> int:
        """The port; known from the first start on."""
        if self._port is None:
            raise WerkError("The server was not started yet.")
        return self._port

    @property
    def dsn(self) -> str:
        """The DSN of the superuser, password included."""
        return self.cluster.dsn(self.port)

    @property
    def pid(self) -> int | None:
        """The postmaster's pid, None when it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self, timeout: float = 60.0) -> None:
        """Start, and return when connections are accepted; nothing happens if it runs."""
        if self.pid is not None:
            return
        self.cluster.await_vacancy(timeout)
        pinned = self._port is not None
        for attempts_left in range(4, -1, -1):
            port = self._port or free_port()
            offset = self.cluster.log.stat().st_size if self.cluster.log.exists() else 0
            if self._start_on(port, timeout):
                self._port = port
                return
            said = self.cluster.log.read_bytes()[offset:].decode(errors="replace").strip()
            # Somebody else may have taken the port between our look and Postgres' bind.
            if attempts_left and not pinned and re.search(r"could not bind|could not create any TCP", said):
                continue
            raise WerkError(f"{self.binaries} did not start on {self.cluster.data}:\n{said[-2000:]}")

    def stop(self, mode: StopMode = "fast", timeout: float = 60.0) -> None:
        """Stop: "smart" waits for clients, "fast" cuts them off, "immediate" does not clean up."""
        process = self._process
        if process is None:
            return
        for sign, patience in ((SIGNALS[mode], timeout), (signal.SIGQUIT, 10.0)):
            if process.poll() is None:
                process.send_signal(sign)
                try:
                    process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue
            self._process = None
            return
        self.kill()

    def kill(self) -> None:
        """Kill the postmaster and all its backends with SIGKILL: what a power cut looks like."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)  # or it would notice its children dying and react
            for victim in (*children_of(process.pid), process.pid):
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            process.wait()
        self._process = None

    def wait(self, timeout: float) -> int | None:
        """Wait for the server to end by itself; return its exit code, None if it still runs."""
        if self._process is None:
            return 0
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._process = None
        return code

    def _start_on(self, port: int, timeout: float) -> bool:
        options = {
            "port": str(port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "logging_collector": "off",
        } | self.settings
        command: list[str | Path] = [self.bindir / "postgres", "-D", self.cluster.data]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self.cluster.log.open("ab") as log:
            process = programs.spawn(programs.mode_for(self.cluster.data), command, log)
        deadline = time.monotonic() + timeout
        while process.poll() is None:
            state = self.cluster.pidfile()
            if state is not None and state.ready and state.pid == process.pid:
                self._process = process
                return True
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise WerkError(f"Postgres was not ready after {timeout:.0f} s: {self.cluster.log}")
            time.sleep(0.005)
        return False


def free_port() -> int:
    """Return a port nobody listens on, below those the kernel hands to outgoing connections.

    On one of those, a client that keeps trying to reconnect to a stopped server ends up connected
    to itself, and the server cannot come back.
    """
    for _ in range(200):
        port = random.randint(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise WerkError("No free port between 15000 and 32000 on 127.0.0.1.")


def children_of(parent: int) -> list[int]:
    """Return the pids of a process' children; Linux only, elsewhere none."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat") if sys.platform == "linux" else ():
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (OSError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found
