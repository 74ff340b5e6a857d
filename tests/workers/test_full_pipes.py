"""A log that nobody reads keeps no supervisor from its work."""

import fcntl
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgwerk import Werk
from pgwerk.workers.reporting.unblocked import ROOM, unblocked
from tests.fixtures.waiting import eventually
from tests.fixtures.workers import Notes, WorkerProcess, living_workers
from tests.workers import handlers

SIZE = 16384
logger = logging.getLogger("pgwerk.worker")


def fill(fd: int) -> None:
    """Write to a pipe until there is no more room."""
    os.set_blocking(fd, False)
    try:
        while os.write(fd, b"x"):
            pass
    except BlockingIOError:
        os.set_blocking(fd, True)


def drain(fd: int) -> str:
    """Read what is in a pipe."""
    os.set_blocking(fd, False)
    parts = []
    try:
        while part := os.read(fd, 65536):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts).decode(errors="replace").replace("x" * 100, "")


def fail_at_length() -> None:
    raise ValueError("z" * 10 * ROOM)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, SIZE)
    yield read, write
    os.close(read)


@pytest.fixture
def handler(pipe: tuple[int, int]) -> Iterator[logging.Handler]:
    with os.fdopen(pipe[1], "w") as stream:
        found = logging.StreamHandler(stream)
        found.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(found)
        yield found
        logger.removeHandler(found)


@pytest.mark.timeout(20)
@pytest.mark.usefixtures("handler")
def test_lines_for_which_there_is_no_room_are_dropped_and_counted(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    read, write = pipe
    with unblocked() as gate:
        logger.warning("first")
        fill(write)
        for number in range(5):
            logger.warning("dropped %d", number)
        gate.tell()
        text = drain(read)
        assert text.startswith("first\n")
        assert "dropped" not in text
        logger.warning("last")
        assert drain(read) == "5 log lines of this process were dropped: what they are written to was full\nlast\n"
        fill(write)
        logger.warning("dropped again")
        drain(read)
        gate.tell()
        assert drain(read).startswith("1 log lines")
    assert "dropped 3" in caplog.text, "a handler that has room is none the poorer"


@pytest.mark.timeout(20)
@pytest.mark.usefixtures("handler")
def test_a_line_longer_than_the_room_is_shortened(pipe: tuple[int, int]) -> None:
    with unblocked():
        logger.warning("%s", "y" * 10 * ROOM)
        try:
            fail_at_length()
        except ValueError:
            logger.exception("what happened")
        text = drain(pipe[0])
    assert len(text) < ROOM
    assert "what happened" in text
    assert text.count("(shortened)") == 2


@pytest.mark.timeout(20)
@pytest.mark.usefixtures("handler")
def test_a_process_that_is_forked_writes_as_it_likes(pipe: tuple[int, int]) -> None:
    with unblocked():
        pid = os.fork()
        if pid == 0:
            logger.warning("from the child")
            os._exit(0)
        os.waitpid(pid, 0)
    assert drain(pipe[0]) == "from the child\n"


def test_a_supervisor_whose_log_nobody_reads_replaces_its_children(
    app: Werk, dsn: str, schema: str, tmp_path: Path, notes: Notes
) -> None:
    log = tmp_path / "log"
    os.mkfifo(log)
    read = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(read, fcntl.F_SETPIPE_SZ, SIZE)
    write = os.open(log, os.O_WRONLY | os.O_NONBLOCK)
    worker = WorkerProcess(dsn, schema, log, processes=1, concurrency=1)
    try:
        living_workers(app)
        for _ in range(2):
            fill(write)
            (child,) = worker.children()
            os.kill(child, signal.SIGKILL)
            eventually(lambda: worker.children() not in ([], [child]), 20, "another child")  # noqa: B023
            app.apply(handlers.noop, timeout=20)
        drain(read)
        worker.process.send_signal(signal.SIGHUP)
        text = ""

        def told() -> bool:
            nonlocal text
            text += drain(read)
            return "log lines of this process were dropped" in text

        eventually(told, 20)
        worker.terminate()
        eventually(lambda: (drain(read), worker.process.poll())[1] is not None, 20)
    finally:
        worker.kill_tree()
        os.close(read)
        os.close(write)
