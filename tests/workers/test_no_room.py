"""A system that has no room for another process, for a while: nobody who lives pays for it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgwerk import JobStatus, Werk
from tests.fixtures.workers import QUICK, ROOT, Notes, WorkerProcess, eventually, living_workers
from tests.workers import handlers

PROGRAM = """
import errno, json, os, sys
fork, room = os.fork, sys.argv[2]

def crowded():
    if os.path.exists(room):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()

os.fork = crowded
from tests.workers.run_worker import main
main()
"""


class Crowded(WorkerProcess):
    """A worker whose system has no room while *full* exists."""

    def __init__(self, dsn: str, schema: str, log: Path, full: Path, **settings: Any) -> None:
        spec = {"dsn": dsn, "schema": schema, "config": QUICK, **settings}
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, json.dumps(spec), str(full)],
                cwd=ROOT, stdout=out, stderr=out, start_new_session=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip


@pytest.fixture
def crowded(dsn: str, schema: str, tmp_path: Path, notes: Notes) -> Iterator[Callable[..., Crowded]]:
    made: list[Crowded] = []

    def start(full: Path, **settings: Any) -> Crowded:
        made.append(Crowded(dsn, schema, tmp_path / "log", full, **settings))
        return made[-1]

    yield start
    for process in made:
        process.kill_tree()


def test_children_live_on_while_no_other_can_be_forked(
    app: Werk, crowded: Callable[..., Crowded], notes: Notes, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    process = crowded(full, processes=2, concurrency=2)
    living_workers(app, 2)
    first, second = eventually(lambda: found if len(found := process.children()) == 2 else None)
    job = app.enqueue(handlers.long_nap, "a", 1.0, _retry=3)
    assert job is not None
    notes.wait("start a")
    victim = next(pid for pid in (first, second) if pid in notes.pids("start a"))
    full.touch()
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: process.output().count("could not start a child") >= 2)
    survivor = second if victim == first else first
    assert process.children() == [survivor]
    assert app.apply(handlers.add, 1, 2, timeout=20) == 3
    full.unlink()
    eventually(lambda: len(process.children()) == 2 and survivor in process.children())
    assert app.wait_for(job, timeout=20).status is JobStatus.COMPLETE
    process.terminate()
    assert process.wait() == 0, process.output()


@pytest.mark.parametrize("kind", ["process", "fork"])
def test_a_worker_whose_children_cannot_be_forked_waits_until_they_can(
    app: Werk, crowded: Callable[..., Crowded], notes: Notes, tmp_path: Path, kind: str
) -> None:
    full = tmp_path / "full"
    process = crowded(full, kind=kind, concurrency=1)
    assert app.apply(handlers.add, 1, 2, timeout=20) == 3
    full.touch()
    job = app.enqueue(handlers.kill_self)
    assert job is not None
    assert app.wait_for(job, timeout=20).status is JobStatus.FAILED
    eventually(lambda: "retrying until it works: " in process.output())
    late = app.enqueue(handlers.add, 3, 4)
    assert late is not None
    full.unlink()
    assert app.wait_for(late, timeout=20).result == 7
    assert process.process.poll() is None
