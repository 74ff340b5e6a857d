"""What the world outside of Postgres is told of a worker: a file for probes, datagrams for systemd."""

import json
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgwerk import ConfigError, ThreadWorker, Werk, Worker
from pgwerk.embedded import Server
from pgwerk.workers.reporting.systemd import Notifier, notifier
from tests.fixtures.workers import Notes, WorkerProcess, eventually, living_workers, thread_worker
from tests.workers import handlers, holding

Start = Callable[..., WorkerProcess]
KINDS = ["prefork", "thread"]
QUICK = {"heartbeat_interval": 0.4}


class Manager:
    """Somebody who listens where NOTIFY_SOCKET points."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)
        self.said: list[dict[str, str]] = []

    def heard(self) -> list[dict[str, str]]:
        while True:
            try:
                text = self._socket.recv(4096).decode()
            except BlockingIOError:
                return self.said
            self.said.append(dict(line.split("=", 1) for line in text.splitlines()))

    def has(self, name: str) -> bool:
        return any(name in one for one in self.heard())

    def count(self, name: str) -> int:
        return sum(name in one for one in self.heard())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    name = secrets.token_hex(4)
    made = Manager(f"@pgwerk-{name}" if request.param == "abstract" else f"/tmp/pgwerk-{name}.sock")
    monkeypatch.setenv("NOTIFY_SOCKET", made.address)
    yield made
    made.close()
    if request.param == "path":
        Path(made.address).unlink()


# systemd --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_systemd_is_told_of_the_whole_life_of_a_worker(
    app: Werk, worker_process: Start, manager: Manager, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    process = worker_process(kind=kind, concurrency=2, config=QUICK)
    eventually(lambda: manager.has("READY"))
    assert [w for w in app.list_workers() if w.status == "active"]
    assert app.apply(handlers.add, 1, 2, timeout=20) == 3
    eventually(lambda: any("finished 1 job (0 failed)" in one.get("STATUS", "") for one in manager.heard()))
    begin, so_far = time.monotonic(), manager.count("WATCHDOG")
    eventually(lambda: manager.count("WATCHDOG") >= so_far + 4)
    assert time.monotonic() - begin < 3, "at least twice in the time after which systemd kills"
    process.terminate()
    assert process.wait() == 0
    said = manager.heard()
    assert sum("READY" in one for one in said) == sum("STOPPING" in one for one in said) == 1
    assert said[-1]["STATUS"] == "stopped"
    assert all("\n" not in one.get("STATUS", "") for one in said)


@pytest.mark.parametrize("kind", KINDS)
def test_the_watchdog_is_not_fed_while_postgres_is_away(
    server: Server, schema: str, worker_process: Start, manager: Manager, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    worker_process(dsn=server.dsn, kind=kind, concurrency=2, config=QUICK)
    eventually(lambda: manager.count("WATCHDOG") > 2)
    server.stop("fast")
    last = [time.monotonic(), 0.0]

    def quiet() -> bool:
        if manager.count("WATCHDOG") != last[1]:
            last[:] = [time.monotonic(), manager.count("WATCHDOG")]
        return time.monotonic() - last[0] > 1.5

    eventually(quiet)
    server.start()
    eventually(lambda: manager.count("WATCHDOG") > last[1] + 2)
    assert manager.count("READY") == 1


def test_a_child_that_is_beaten_for_does_not_make_the_worker_unhealthy(
    app: Werk, worker_process: Start, notes: Notes, tmp_path: Path
) -> None:
    path = tmp_path / "health"
    worker_process(processes=1, concurrency=1, config=QUICK, health_file=str(path))
    job = app.enqueue(holding.hold, "a", 3.0)
    assert job is not None
    notes.wait("start a")
    oldest = 0.0
    while not notes.count("end a"):
        oldest = max(oldest, time.time() - path.stat().st_mtime)
    assert oldest < 1.5


def test_who_is_told_follows_from_the_environment() -> None:
    assert notifier({}) is None
    assert notifier({"NOTIFY_SOCKET": "vsock:2:1"}) is None
    found = notifier({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000"})
    assert found is not None
    assert found.watchdog == 3.0
    for wrong in ({"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}):
        found = notifier({"NOTIFY_SOCKET": "/run/x", **wrong})
        assert found is not None
        assert found.watchdog is None


def test_a_manager_that_does_not_listen_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sender = Notifier(str(tmp_path / "nobody"))
    for _ in range(3):
        sender.send(READY="1")
    (record,) = caplog.records
    assert "cannot notify the service manager" in record.getMessage()


# The health file ------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_health_file_is_renewed_while_postgres_hears_of_the_worker_and_removed_at_its_end(
    server: Server, schema: str, worker_process: Start, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "health"
    process = worker_process(dsn=server.dsn, kind=kind, concurrency=2, config=QUICK, health_file=str(path))
    eventually(lambda: path.exists() and json.loads(path.read_text())["state"] == "working")
    seen = json.loads(path.read_text())
    assert (seen["pid"], set(seen)) == (process.pid, {"state", "time", "pid"})
    assert path.read_text().count("\n") == 1
    times: set[float] = set()

    def renewed() -> bool:
        times.add(path.stat().st_mtime)
        return len(times) > 4

    eventually(renewed)
    server.stop("fast")
    eventually(lambda: time.time() - path.stat().st_mtime > 2.0)
    server.start()
    eventually(lambda: time.time() - path.stat().st_mtime < 0.5)
    process.terminate()
    assert process.wait() == 0, process.output()
    assert list(tmp_path.glob("*health*")) == []


def test_the_health_file_of_a_worker_that_was_killed_stays_and_ages(
    app: Werk, worker_process: Start, tmp_path: Path
) -> None:
    path = tmp_path / "health"
    process = worker_process(processes=1, concurrency=1, config=QUICK, health_file=str(path))
    eventually(lambda: path.exists() and json.loads(path.read_text())["state"] == "working")
    os.killpg(process.pid, signal.SIGKILL)
    eventually(lambda: time.time() - path.stat().st_mtime > 1.0)


@pytest.mark.parametrize("kind", [Worker, ThreadWorker])
def test_a_health_file_that_cannot_be_written_is_refused_at_the_start(
    app: Werk, tmp_path: Path, kind: Callable[..., Worker | ThreadWorker]
) -> None:
    with pytest.raises(ConfigError, match=r"nowhere/health.*No such file or directory\. Name a file in a directory"):
        kind(app, burst=True, health_file=tmp_path / "nowhere" / "health").run()
    assert app.list_workers() == []


def test_a_health_file_that_cannot_be_written_any_more_stops_nobody(
    app: Werk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "sub"
    directory.mkdir()
    path = directory / "health"
    with thread_worker(app, heartbeat_interval=0.2, health_file=path):
        living_workers(app)
        eventually(lambda: path.exists() and "working" in path.read_text())

        def gone() -> bool:
            for left in directory.iterdir():
                left.unlink(missing_ok=True)
            try:
                directory.rmdir()
            except OSError:
                return False
            return True

        eventually(gone)
        eventually(lambda: "cannot be written any more" in caplog.text)
        assert app.apply(handlers.add, 1, 1, timeout=20) == 2
    assert caplog.text.count("cannot be written any more") == 1
