"""Whatever handlers and configurations do to logging, the worker goes on and is heard."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pgwerk
from pgwerk import Job, JobStatus, Retry, ThreadWorker, Werk
from tests.fixtures.workers import ROOT, Notes, WorkerProcess, burst, eventually, living_workers, running
from tests.workers import handlers

Kind = Callable[..., Any]


@pytest.fixture(params=["ThreadWorker", "AsyncWorker", "ProcessWorker", "ForkWorker"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """A class of workers."""
    found: Kind = getattr(pgwerk, request.param)
    return found


def test_a_handler_that_only_logs_is_interrupted_and_leaves_logging_usable(
    app: Werk, kind: Kind, tmp_path: Path
) -> None:
    with running(kind, app, concurrency=1):
        for _ in range(3):
            job = app.enqueue(handlers.logs_without_end, str(tmp_path / "log"), _timeout=0.2)
            assert job is not None
            failed = app.wait_for(job, timeout=20)
            assert "timed out after 0.2 s\nTraceback" in (failed.error or ""), "it was interrupted, not left behind"
        assert app.apply(handlers.add, 1, 1, timeout=20) == 2


class Stuck(logging.Handler):
    """Holds its lock and never comes back, as one that writes to a pipe which nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()
        self.inside = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002  # whatever it is
        self.inside.set()
        self.let_go.wait()


class Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002  # whatever it is
        raise RuntimeError("this handler is broken")


@pytest.fixture
def root_handler(request: pytest.FixtureRequest) -> Iterator[logging.Handler]:
    made: logging.Handler = request.param()
    logging.getLogger().addHandler(made)
    yield made
    logging.getLogger().removeHandler(made)
    if isinstance(made, Stuck):
        made.let_go.set()


@pytest.mark.parametrize("root_handler", [Stuck], indirect=True)
def test_a_worker_does_not_wait_for_a_handler_of_logging_that_hangs(app: Werk, kind: Kind, root_handler: Stuck) -> None:
    with running(kind, app, concurrency=2):
        for _ in range(3):
            failing = app.enqueue(handlers.fail)  # which the worker writes about
            assert failing is not None
            assert app.wait_for(failing, timeout=20).status is JobStatus.FAILED
        assert root_handler.inside.wait(20)
        assert app.apply(handlers.add, 1, 1, timeout=20) == 2


@pytest.mark.parametrize("root_handler", [Raising], indirect=True)
def test_a_handler_of_logging_that_raises_costs_lines_and_nothing_else(
    app: Werk, kind: Kind, root_handler: Raising
) -> None:
    with running(kind, app, concurrency=2):
        failing = app.enqueue(handlers.fail)
        assert failing is not None
        assert app.wait_for(failing, timeout=20).status is JobStatus.FAILED
        assert app.apply(handlers.add, 1, 1, timeout=20) == 2


def test_the_last_lines_are_there_when_a_worker_has_ended(app: Werk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pgwerk")
    app.enqueue(handlers.fail)
    burst(app)
    assert "stopped after 1 job" in caplog.text
    assert "failed, attempt 1 of 1" in caplog.text


SILENCES = """
import logging.config, sys
from pgwerk import Werk

app = Werk({dsn!r}, schema={schema!r})

def configure():
    logging.config.{configure}

def add(a, b):
    return a + b

def quiet():
    configure()
    raise ValueError("after it was configured")

{when}
"""
DICT = """dictConfig({
        "version": 1, "disable_existing_loggers": True,
        "formatters": {"plain": {"format": "APP %(name)s %(levelname)s %(message)s"}},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "plain"}},
        "root": {"level": "WARNING", "handlers": ["out"]},
    })"""
FILE = "fileConfig(__file__.replace('.py', '.ini'))"
WHEN = ("configure()", "app.on_startup(configure)", "")
INI = """
[loggers]
keys = root
[handlers]
keys = out
[formatters]
keys = plain
[logger_root]
level = WARNING
handlers = out
[handler_out]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = APP %(name)s %(levelname)s %(message)s
"""


@pytest.mark.parametrize(
    ("type_", "when", "configure"),
    [
        *[("thread", when, configure) for when in WHEN for configure in (DICT, FILE)],
        *[("prefork", when, DICT) for when in WHEN],
        *[(type_, "app.on_startup(configure)", DICT) for type_ in ("process", "fork", "async")],
    ],
)
def test_a_configuration_that_disables_loggers_does_not_silence_the_worker(
    dsn: str, schema: str, tmp_path: Path, type_: str, when: str, configure: str
) -> None:
    (tmp_path / "quietapp.py").write_text(SILENCES.format(dsn=dsn, schema=schema, configure=configure, when=when))
    (tmp_path / "quietapp.ini").write_text(INI)
    program = (
        "import quietapp; quietapp.app.connect(); quietapp.app.enqueue('quietapp.quiet'); "
        "quietapp.app.enqueue('quietapp.add', 1, 'x')"
    )
    run_program([sys.executable, "-c", program], tmp_path)
    output = run_program(
        [sys.executable, "-m", "pgwerk.cli", "worker", "quietapp:app", "--burst", "--worker-type", type_,
         "--concurrency", "1"], tmp_path,
    )  # fmt: skip
    lines = [line for line in output.splitlines() if "pgwerk.worker" in line]
    assert any("stopped" in line and "INFO" in line for line in lines), output
    assert sum("failed, attempt 1 of 1" in line for line in lines) == 2, output


def run_program(arguments: list[str], directory: Path) -> str:
    done = subprocess.run(
        arguments, cwd=directory, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": f"{directory}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stderr


def test_who_is_switched_off_by_name_stays_silent(app: Werk, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("pgwerk.worker")
    worker = ThreadWorker(app, burst=True)
    logger.disabled = True
    try:
        worker.run()
    finally:
        logger.disabled = False
    assert "pgwerk.worker" not in {record.name for record in caplog.records}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize("type_", ["Worker", "ThreadWorker", "ProcessWorker", "ForkWorker", "AsyncWorker"])
@pytest.mark.parametrize("where", ["0<&- 1>&- 2>&-", ">/dev/full 2>/dev/full", "2>&1 | true"])
def test_a_worker_that_cannot_write_runs_its_jobs_all_the_same(
    app: Werk, dsn: str, schema: str, tmp_path: Path, type_: str, where: str
) -> None:
    for _ in range(3):
        _ = app.enqueue(handlers.fail)
    job = app.enqueue(handlers.add, 1, 2)
    assert job is not None
    (tmp_path / "run.py").write_text(
        f"import pgwerk\npgwerk.configure_logging()\napp = pgwerk.Werk({dsn!r}, schema={schema!r})\n"
        f"pgwerk.{type_}(app, concurrency=1, burst=True).run()\n"
    )
    done = subprocess.run(
        ["bash", "-c", f"{{ {sys.executable} run.py; echo $? >code; }} {where}"], timeout=60, check=False,
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert (tmp_path / "code").read_text() == "0\n"
    assert app.get_job(job).result == 3
    assert [stats.counts for stats in app.get_queue_stats()] == [{"complete": 1, "failed": 3}]


def test_warnings_that_nobody_handles_look_like_ours(tmp_path: Path, dsn: str, schema: str) -> None:
    (tmp_path / "plainapp.py").write_text(
        f"import logging\nfrom pgwerk import Werk\napp = Werk({dsn!r}, schema={schema!r})\n"
        "def warns():\n    logging.getLogger('psycopg.pool').warning('from the pool')\n"
    )
    run_program([sys.executable, "-c", "import plainapp; plainapp.app.enqueue('plainapp.warns')"], tmp_path)
    arguments = [sys.executable, "-m", "pgwerk.cli", "worker", "plainapp:app", "--burst", "--worker-type", "thread"]
    output = run_program(arguments, tmp_path)
    (line,) = [line for line in output.splitlines() if "from the pool" in line]
    assert line.endswith(" WARNING  psycopg.pool: from the pool")


def lines_of(caplog: pytest.LogCaptureFixture, job: Job | None) -> list[str]:
    """What was logged about the failed attempts of a job."""
    assert job is not None
    return [text for text in caplog.messages if job.id in text and "failed, attempt" in text]


def test_a_failed_attempt_says_whether_it_is_retried_and_when(app: Werk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pgwerk")
    at_once = app.enqueue(handlers.fail, "broken", _retry=Retry(2))
    later = app.enqueue(handlers.fail, "broken", _retry=Retry(3, intervals=[8, 90]))
    never = app.enqueue(handlers.fail, "broken", _retry=Retry(3, intervals=8, no_retry=(ValueError,)))
    late = app.enqueue(handlers.nap, 30, _timeout=0.2, _retry=Retry(2, intervals=90))
    grouped = app.enqueue(handlers.fail, "broken", _group="g", _retry=Retry(2, intervals=8))
    burst(app)
    first, second = lines_of(caplog, at_once)
    assert first.endswith("failed, attempt 1 of 2: ValueError: broken; retrying at once")
    assert second.endswith("failed, attempt 2 of 2: ValueError: broken; that was the last attempt")
    assert [text.partition("; ")[2] for text in lines_of(caplog, later)] == ["retrying in 8 s"]
    assert [text.partition("; ")[2] for text in lines_of(caplog, never)] == ["it is not retried"]
    (text,) = lines_of(caplog, late)
    assert text.endswith("failed, attempt 1 of 2: timed out after 0.2 s; retrying in 90 s")
    assert [text.partition("; ")[2] for text in lines_of(caplog, grouped)] == ["retrying in 8 s"]


@pytest.mark.parametrize("kind", ["thread", "async"])
def test_a_signal_says_what_it_waits_for_and_what_the_next_one_does(
    app: Werk, worker_process: Callable[..., WorkerProcess], notes: Notes, kind: str
) -> None:
    process = worker_process(kind=kind, concurrency=3, shutdown_timeout=60)
    jobs = [app.enqueue(handlers.long_nap, name, 60) for name in "ab"]
    for name in "ab":
        notes.wait(f"start {name}")
    process.terminate()
    expected = (
        "SIGTERM: stopping; waiting up to 60 s for 2 running jobs to finish (a second signal interrupts them and gives "
        "them back at once)"
    )
    eventually(lambda: expected in process.output())
    process.terminate()
    assert process.wait() == 0, process.output()
    assert "SIGTERM again: interrupting 2 running jobs and giving them back" in process.output()
    assert "gave back 2 running jobs" in process.output()
    assert [app.get_job(job).status for job in jobs] == [JobStatus.QUEUED] * 2


def test_a_signal_while_nothing_runs(worker_process: Callable[..., WorkerProcess], app: Werk) -> None:
    process = worker_process(kind="thread")
    _ = living_workers(app)
    process.terminate()
    assert process.wait() == 0, process.output()
    assert "SIGTERM: stopping; no job is running" in process.output()
    assert "gave back" not in process.output()


def test_a_supervisor_says_it_too(worker_process: Callable[..., WorkerProcess], app: Werk, notes: Notes) -> None:
    process = worker_process(kind="prefork", processes=1, concurrency=3, shutdown_timeout=0.1)
    job = app.enqueue(handlers.long_nap, "a", 60)
    notes.wait("start a")
    process.terminate()
    assert process.wait() == 0, process.output()
    assert "SIGTERM: stopping; " in process.output()
    assert "gave back 1 running job" in process.output()
    assert job is not None
    assert app.get_job(job).status is JobStatus.QUEUED
