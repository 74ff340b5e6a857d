"""Handlers in processes of their own: what they get and may do, and how long their processes live."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgwerk
from pgwerk import JobStatus, Werk, WerkError
from tests.fixtures.processes import Kind
from tests.fixtures.workers import Notes, burst, eventually, running
from tests.workers import handlers, worst_handlers


def test_an_argument_and_an_error_of_megabytes_pass(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1):
        assert app.apply(handlers.echo, "y" * 10_000_000, timeout=60) == "y" * 10_000_000
        job = app.enqueue(handlers.fail, "z" * 10_000_000)
        assert job is not None
        assert "zzzzzzzz" in (app.wait_for(job, timeout=30).error or "")


def test_a_handler_gets_a_full_context(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1, queues=["default", "other"]) as worker:
        found = app.apply(worst_handlers.about_its_context, timeout=20, _timeout=10)
        assert found == {
            "id": worker.id,
            "name": worker.name,
            "queues": ["default", "other"],
            "function": "tests.workers.worst_handlers.pid",
            "stopping": False,
        }


def test_progress_shows_while_the_job_runs(app: Werk, hosting: Kind) -> None:
    job = app.enqueue(worst_handlers.reports)
    assert job is not None
    with running(hosting, app, concurrency=1):
        seen = eventually(lambda: app.get_job(job).progress)
        eventually(lambda: app.get_job(job).progress != seen)
    done = app.get_job(job)
    assert done.status is JobStatus.COMPLETE
    assert done.progress is not None
    assert done.progress["message"].startswith("step ")


def test_progress_that_cannot_be_stored_is_the_handlers_error(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1):
        in_thread = running(pgwerk.ThreadWorker, app, queues=["threads"])
        with in_thread:
            expected = app.apply(worst_handlers.reports_nonsense, timeout=20, _queue="threads")
        assert app.apply(worst_handlers.reports_nonsense, timeout=20) == expected


def test_the_child_of_a_handler_that_forks_takes_no_part(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1):
        assert [app.apply(worst_handlers.forks_and_returns, timeout=20) for _ in range(3)] == ["parent"] * 3


def test_a_handler_can_terminate_a_process_that_it_forked(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1):
        assert app.apply(worst_handlers.terminates_a_process, timeout=20) == -signal.SIGTERM


def test_a_handler_can_use_an_alarm_of_its_own(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1):
        assert app.apply(worst_handlers.has_an_alarm, timeout=20) == "the alarm"


def test_hooks_of_the_app_run_in_each_process_and_not_in_this_one(app: Werk, hosting: Kind, notes: Notes) -> None:
    app.disconnect()
    app.on_startup(worst_handlers.note_startup)
    app.on_shutdown(worst_handlers.note_shutdown)
    with running(hosting, app, concurrency=2):
        pids = {app.apply(worst_handlers.pid, timeout=20) for _ in range(6)}
    started, ended = notes.pids("startup"), notes.pids("shutdown")
    assert len(started) == len(set(started))
    assert pids <= set(started)
    assert set(ended) == set(started)
    assert os.getpid() not in started


def test_a_startup_hook_that_fails_ends_the_worker_with_the_reason(app: Werk, hosting: Kind) -> None:
    app.disconnect()
    app.on_startup(worst_handlers.starts_badly)
    job = app.enqueue(handlers.noop)
    assert job is not None
    with pytest.raises(WerkError, match="the hook does not like it here"):
        hosting(app, concurrency=1).run()
    untouched = app.get_job(job)
    assert (untouched.status, untouched.attempts) == (JobStatus.QUEUED, 0)


def test_a_process_that_needs_no_database_opens_no_connection(
    app: Werk, hosting: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "connects"
    connect = psycopg.Connection.connect.__func__  # type: ignore[attr-defined]

    def noted(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with log.open("a") as out:
            out.write(f"{os.getpid()}\n")
        return connect(cls, *args, **kwargs)

    monkeypatch.setattr(psycopg.Connection, "connect", classmethod(noted))
    for _ in range(5):
        app.enqueue(handlers.noop)
    burst(app, hosting, concurrency=2)
    assert set(log.read_text().split()) == {str(os.getpid())}


def test_what_a_handler_prints_is_written(app: Werk, hosting: Kind, capfd: pytest.CaptureFixture[str]) -> None:
    with running(hosting, app, concurrency=1):
        app.apply(worst_handlers.writes, "printed once\n", timeout=20)
    assert capfd.readouterr().out.count("printed once") == 1


def test_processes_live_on_from_job_to_job(app: Werk) -> None:
    with running(pgwerk.ProcessWorker, app, concurrency=2):
        pids = {app.apply(worst_handlers.pid, timeout=20) for _ in range(10)}
        pids |= set(app.map(worst_handlers.pid, [{}] * 20, timeout=20))
    assert 1 <= len(pids) <= 2
    assert os.getpid() not in pids


def test_a_process_is_replaced_after_max_jobs(app: Werk) -> None:
    with running(pgwerk.ProcessWorker, app, concurrency=1, max_jobs=5):
        pids = app.map(worst_handlers.pid, [{}] * 20, timeout=20)
    counts = [pids.count(pid) for pid in dict.fromkeys(pids)]
    assert len(counts) >= 4
    assert max(counts) <= 5


def test_a_process_is_replaced_when_it_uses_more_than_max_rss(app: Werk, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), running(pgwerk.ProcessWorker, app, concurrency=1, max_rss="400M"):
        small = [app.apply(worst_handlers.eat, 1, timeout=20) for _ in range(3)]
        large = app.apply(worst_handlers.eat, 400, timeout=20)
        after = app.apply(worst_handlers.eat, 1, timeout=20)
    assert len({*small, large}) == 1
    assert after != large
    assert f"process {large} uses" in caplog.text
