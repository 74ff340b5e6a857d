"""Timeouts, aborts and shutdowns of handlers in processes of their own: by a signal, then by force."""

import time
from collections.abc import Callable

import pytest

import pgwerk
from pgwerk import JobStatus, Werk
from tests.fixtures.processes import Kind, exists
from tests.fixtures.workers import Notes, eventually, running
from tests.workers import handlers, worst_handlers


def test_a_timeout_interrupts_a_sleep_at_once_and_the_process_survives(app: Werk, notes: Notes) -> None:
    with running(pgwerk.ProcessWorker, app, concurrency=1):
        before = app.apply(worst_handlers.pid, timeout=20)
        job = app.enqueue(worst_handlers.sleeps, "a", 60, _timeout=0.3)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
        assert "timed out after 0.3 s" in (failed.error or "")
        assert "in sleeps" in (failed.error or "")
        assert time.time() - notes.times("start a")[0] < 3
        assert app.apply(worst_handlers.pid, timeout=20) == before


def test_an_abort_interrupts_a_sleep_at_once(app: Werk, hosting: Kind, notes: Notes) -> None:
    with running(hosting, app, concurrency=1):
        job = app.enqueue(worst_handlers.sleeps, "a", 60, _retry=3)
        assert job is not None
        notes.wait("start a")
        started = time.monotonic()
        assert app.abort_job(job)
        assert app.wait_for(job, timeout=20).status is JobStatus.ABORTED
        assert time.monotonic() - started < 3
        assert app.apply(handlers.add, 1, 2, timeout=20) == 3


@pytest.mark.parametrize("handler", [worst_handlers.deaf, worst_handlers.swallows])
def test_a_handler_that_ignores_its_timeout_is_killed_after_the_grace(
    app: Werk, hasty: Kind, notes: Notes, handler: Callable[..., None]
) -> None:
    with running(hasty, app, concurrency=1):
        job = app.enqueue(handler, "a", 60, _timeout=0.3)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
        assert time.time() - notes.times("start a")[0] < 4
        assert failed.status is JobStatus.FAILED
        assert "timed out after 0.3 s" in (failed.error or "")
        (pid,) = notes.pids("start a")
        eventually(lambda: not exists(pid), 2)
        assert app.apply(handlers.add, 1, 2, timeout=20) == 3
    assert len(app.get_executions(job)) == 1


def test_an_abort_that_is_ignored_kills_the_process_and_the_job_is_aborted(
    app: Werk, hasty: Kind, notes: Notes
) -> None:
    with running(hasty, app, concurrency=1):
        job = app.enqueue(worst_handlers.deaf, "a", 60, _retry=3)
        assert job is not None
        notes.wait("start a")
        assert app.abort_job(job)
        aborted = app.wait_for(job, timeout=20)
        assert (aborted.status, aborted.error) == (JobStatus.ABORTED, "aborted")
        eventually(lambda: not exists(notes.pids("start a")[0]), 2)


def test_a_shutdown_that_is_ignored_kills_the_process_and_gives_the_job_back(
    app: Werk, hasty: Kind, notes: Notes
) -> None:
    job = app.enqueue(worst_handlers.deaf, "a", 60)
    assert job is not None
    with running(hasty, app, concurrency=1, shutdown_timeout=0.2):
        notes.wait("start a")
    given_back = app.get_job(job)
    assert (given_back.status, given_back.attempts) == (JobStatus.QUEUED, 0)
    eventually(lambda: not exists(notes.pids("start a")[0]), 2)


def test_a_second_stop_interrupts_a_sleep_and_gives_back_at_once(app: Werk, hosting: Kind, notes: Notes) -> None:
    job = app.enqueue(worst_handlers.sleeps, "a", 60)
    assert job is not None
    with running(hosting, app, concurrency=1, shutdown_timeout=60) as worker:
        notes.wait("start a")
        started = time.monotonic()
        worker.stop()
        worker.stop()
    assert time.monotonic() - started < 3
    given_back = app.get_job(job)
    assert (given_back.status, given_back.attempts) == (JobStatus.QUEUED, 0)
    assert [e.status.value for e in app.get_executions(job)] == ["aborted"]


def test_after_its_query_was_cancelled_a_handler_that_goes_on_is_interrupted(
    app: Werk, hosting: Kind, notes: Notes
) -> None:
    with running(hosting, app, concurrency=1):
        job = app.enqueue(worst_handlers.swallows_the_cancelled_query, _timeout=0.3)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
    assert "timed out after 0.3 s" in (failed.error or "")
    assert "in swallows_the_cancelled_query" in (failed.error or "")
    assert notes.all() == ["cancelled"]


def test_killing_a_handler_kills_the_programs_it_started(app: Werk, hasty: Kind, notes: Notes) -> None:
    with running(hasty, app, concurrency=1):
        job = app.enqueue(worst_handlers.starts_a_program, "program", _timeout=0.5)
        assert job is not None
        assert "timed out" in (app.wait_for(job, timeout=20).error or "")
        (program,) = [int(note.split()[1]) for note in notes.all()]
        eventually(lambda: not exists(program), 5)
