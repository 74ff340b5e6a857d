"""`embedded://`: one server a directory, shared, stopped after its last user."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgwerk.embedded import locks, resolve
from pgwerk.embedded.cluster import Cluster
from pgwerk.embedded.sharing import directory
from pgwerk.errors import WerkError

USER = """
import sys
from pgwerk.embedded import resolve
print(resolve(sys.argv[1]), flush=True)
sys.stdin.read()
"""

Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "server"


@pytest.fixture
def user(root: Path) -> Iterator[Start]:
    """Start processes that use the server until they are killed."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", USER, f"embedded://{root}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PGWERK_EMBEDDED_LINGER": "0.4"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    until_stopped(root)


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def until_stopped(root: Path) -> None:
    deadline = time.monotonic() + 30
    while locks.is_held(root / "keeper.lock"):
        assert time.monotonic() < deadline, "the keeper did not stop"
        time.sleep(0.02)


def test_processes_share_one_server_which_stops_after_the_last_was_killed(root: Path, user: Start) -> None:
    users = [user() for _ in range(4)]
    dsns = {answer(one) for one in users}
    assert len(dsns) == 1
    with psycopg.connect(dsns.pop()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
        assert connection.execute("SHOW fsync").fetchone() == ("on",)

    for one in users[1:]:
        one.send_signal(signal.SIGKILL)
        one.wait()
    time.sleep(1)
    assert locks.is_held(root / "keeper.lock"), "one user is left"

    users[0].send_signal(signal.SIGKILL)
    users[0].wait()
    until_stopped(root)
    assert not (root / "data" / "postmaster.pid").exists(), "it was stopped cleanly"
    assert "database system is shut down" in (root / "server.log").read_text()

    again = answer(user())
    with psycopg.connect(again) as connection:
        assert connection.execute("SELECT id FROM kept").fetchone() == (1,)


def test_a_killed_keeper_takes_the_server_along_and_the_next_user_starts_anew(root: Path, user: Start) -> None:
    first = answer(user())
    postmaster = Cluster(root).pidfile()
    assert postmaster is not None
    status = Path(f"/proc/{postmaster.pid}/stat").read_text()
    os.kill(int(status.rpartition(")")[2].split()[1]), signal.SIGKILL)
    until_stopped(root)
    second = answer(user())
    assert second == first, "the port is kept"
    psycopg.connect(second).close()


def test_a_crashed_server_is_started_again(root: Path, user: Start) -> None:
    dsn = answer(user())
    before = Cluster(root).pidfile()
    assert before is not None
    os.kill(before.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (now := Cluster(root).pidfile()) is None or now.pid == before.pid or not now.ready:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    psycopg.connect(dsn).close()


def test_another_major_is_refused(root: Path) -> None:
    (root / "data").mkdir(parents=True)
    (root / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(WerkError, match=r"holds a cluster of Postgres 9, which no other major"):
        resolve(f"embedded://{root}")


def test_a_data_directory_is_refused(root: Path) -> None:
    root.mkdir()
    (root / "PG_VERSION").write_text("18\n")
    with pytest.raises(WerkError, match="is itself a data directory"):
        resolve(f"embedded://{root}")


def test_bad_binaries_are_reported_through_the_keeper(root: Path) -> None:
    with pytest.raises(WerkError, match="PG_BIN=/nowhere holds no working `postgres`"):
        resolve(f"embedded://{root}", environ={"PG_BIN": "/nowhere"})


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WerkError, match=r"Cannot use .*/file/server"):
        resolve(f"embedded://{tmp_path}/file/server")


def test_other_dsns_are_left_alone() -> None:
    assert resolve("postgresql://somewhere/else") == "postgresql://somewhere/else"


def test_which_directory() -> None:
    home = {"HOME": "/home/ann"}
    assert directory("embedded://", home) == Path("/home/ann/.local/share/pgwerk")
    assert directory("embedded://", home | {"XDG_DATA_HOME": "/d"}) == Path("/d/pgwerk")
    assert directory("embedded://", home | {"XDG_DATA_HOME": "d"}).parts[:3] == ("/", "home", "ann")
    assert directory("embedded:///a/b%20c", home) == Path("/a/b c")
    assert directory("embedded://a/b", home) == Path.cwd() / "a" / "b"
    with pytest.raises(WerkError, match="takes no options"):
        directory("embedded:///a?fsync=off", home)


def test_a_pid_file_with_a_strangers_pid_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pidfile = tmp_path / "data" / "postmaster.pid"
    pidfile.write_text(f"{os.getpid()}\n")
    Cluster(tmp_path).await_vacancy()
    assert not pidfile.exists()
