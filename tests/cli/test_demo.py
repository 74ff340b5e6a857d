"""The demo, from end to end and in its parts."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgwerk import Werk, WerkError, embedded
from pgwerk.cli import demo as command
from pgwerk.demo import jobs
from pgwerk.demo.batch import Batch, python_files
from tests.fixtures.workers import eventually

Process = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def own() -> Iterator[str]:
    """A server of the demo's own: it uses fixed schemas."""
    with embedded.temporary() as server:
        yield server.dsn


@pytest.mark.slow
def test_end_to_end_twice(process: Process, own: str) -> None:
    for _ in range(2):
        done = process("demo", "--dsn", own, "--files", "250", "--processes", "1")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "\x1b" not in done.stdout
        assert done.stderr == ""
        total = re.search(r"250 jobs in .*: (\d+) complete, (\d+) failed, (\d+) retried", done.stdout)
        assert total is not None, done.stdout
        complete, failed, retried = map(int, total.groups())
        assert complete + failed == 250
        assert failed == retried == done.stdout.count("SyntaxError")
        assert "werk info --dsn postgresql://" in done.stdout
    with psycopg.connect(own) as connection:
        row = connection.execute("select count(*), count(distinct queue) from pgwerk._pgwerk_jobs").fetchone()
        assert row == (500, 1)
        row = connection.execute("select count(*) from pgwerk_demo.demo_definitions").fetchone()
        assert row is not None
        assert row[0] > 0
        row = connection.execute("select count(*) from pgwerk._pgwerk_worker where status = 'active'").fetchone()
        assert row == (0,), "the workers have said goodbye"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_it_leaves_no_process_and_loses_nothing(own: str, number: signal.Signals) -> None:
    before = ending_of(own)
    demo = subprocess.Popen(
        [sys.executable, "-m", "pgwerk.cli", "demo", "--dsn", own, "--processes", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("Started a worker"):
            break
    _ = eventually(lambda: ending_of(own)[1] > before[1], what="the first job to end")
    workers = processes_with(own)
    assert len(workers) >= 2
    demo.send_signal(number)
    out, err = demo.communicate(timeout=40)
    deadline = time.monotonic() + 30
    while processes_with(own) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not processes_with(own)
    if number is not signal.SIGKILL:
        assert demo.returncode == 130
        assert "jobs are still queued" in out
        assert err.strip() == ""
    # Nothing is lost: whatever has not ended waits in the queue.
    left, ended, active = ending_of(own)
    assert left + ended + active - sum(before) == len(python_files())
    assert active == 0
    with psycopg.connect(own, autocommit=True) as connection:
        connection.execute("truncate pgwerk._pgwerk_jobs")


def ending_of(dsn: str) -> tuple[int, int, int]:
    """How many jobs wait, have ended, and are active."""
    with psycopg.connect(dsn) as connection:
        if connection.execute("select to_regclass('pgwerk._pgwerk_jobs')").fetchone() == (None,):
            return 0, 0, 0
        rows: dict[str, int] = dict(
            connection.execute("select status, count(*) from pgwerk._pgwerk_jobs group by 1").fetchall()
        )
    active = rows.pop("active", 0)
    ended = sum(rows.pop(name, 0) for name in ("complete", "failed"))
    return sum(rows.values()), ended, active


def processes_with(dsn: str) -> list[int]:
    """Worker processes that were started for this database, by their environment."""
    port = dsn.rpartition(":")[2].partition("/")[0]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                env = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"pgwerk.demo.app:app" in command and f"port={port}".encode() in env:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_a_worker_that_dies_is_told(own: str) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "pgwerk.cli", "demo", "--dsn", own, "--processes", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("Started a worker"):
            break
    time.sleep(1)
    for pid in processes_with(own):
        os.kill(pid, signal.SIGKILL)
    out, err = demo.communicate(timeout=40)
    assert demo.returncode == 1, out
    assert "The demo's worker was killed by SIGKILL" in err
    assert "Traceback" not in err
    with psycopg.connect(own, autocommit=True) as connection:
        connection.execute("truncate pgwerk._pgwerk_jobs")


@pytest.mark.parametrize(
    "path", ["../../../../etc/passwd", "/etc/passwd", "ast.pyc", "../x.py", "site-packages/../os.py", "site-packages"]
)
def test_a_payload_leads_nowhere_else(path: str) -> None:
    with pytest.raises(ValueError, match="not a Python file of the standard library"):
        jobs.checked_path(path)


def test_a_link_that_leads_out_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "lib"
    library.mkdir()
    (tmp_path / "secret.py").write_text("x = 1\n")
    (library / "link.py").symlink_to(tmp_path / "secret.py")
    (library / "own.py").write_text("y = 1\n")
    monkeypatch.setattr(jobs, "LIBRARY", library)
    monkeypatch.setattr("pgwerk.demo.batch.LIBRARY", library)
    with pytest.raises(ValueError, match=r"link\.py"):
        jobs.checked_path("link.py")
    packages = tmp_path / "packages"
    packages.mkdir()
    (packages / "beside.py").write_text("z = 1\n")
    monkeypatch.setattr(jobs, "PACKAGES", packages)
    monkeypatch.setattr("pgwerk.demo.batch.PACKAGES", packages)
    assert python_files() == ["own.py", "site-packages/beside.py"], "few files: packages are read, too"
    monkeypatch.setattr("pgwerk.demo.batch.ENOUGH", 1)
    assert python_files() == ["own.py"]


def test_a_job_may_run_twice(own: str) -> None:
    class Ctx:
        app = Werk(own)

    batch = Batch(Ctx.app)
    batch.prepare()
    ctx: Any = Ctx()
    first = jobs.index_file(ctx, "ast.py")
    assert first > 100
    assert jobs.index_file(ctx, "ast.py") == first
    assert batch.top_files() == [("ast.py", *batch.totals())]
    assert sum(batch.totals()) == first
    batch.close()
    jobs.own_connection("").close()


def test_a_worker_that_does_nothing_is_told(own: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:

    class Idle:
        ended = None
        log = tmp_path / "log"

        def said(self) -> str:
            return "its last words"

    monkeypatch.setattr(command, "STUCK_SECONDS", 0.3)
    batch = Batch(Werk(own, pool=False))
    batch.prepare()
    batch.enqueue(["ast.py", "bisect.py"])
    idle: Any = Idle()
    with pytest.raises(WerkError, match=r"has finished no job for 0 s, 2 jobs are left[^~]*its last words"):
        list(command._progress(batch, idle))
    assert batch.left_over() == 2
    batch.app.bulk_cancel_jobs("demo")
    batch.close()
