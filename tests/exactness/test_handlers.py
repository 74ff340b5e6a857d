"""Handlers that do their worst are one attempt each; the reason is recorded and the worker goes on."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from pgwerk import Context, JobStatus, Retry, Werk
from tests.exactness import handlers
from tests.exactness.helpers import Outside, Start, enqueued, expect
from tests.fixtures.workers import Notes, burst, eventually, thread_worker

pytestmark = pytest.mark.in_memory


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("unprintable", "Unprintable"),
        ("exiting text", "ExitingText"),
        ("exiting notes", "ExitingNotes"),
        ("NUL", r"ValueError: a\x00b"),
        ("surrogate", r"ValueError: a\udc80b"),
        ("5 MB", "characters left out"),
        ("group", "ExceptionGroup"),
        ("chain", "number 1999"),
    ],
)
def test_an_exception_that_is_hard_to_show_is_one_failed_attempt_with_a_reason(
    app: Werk, outside: Outside, kind: str, reason: str
) -> None:
    with thread_worker(app, concurrency=1):
        job = enqueued(app.enqueue(handlers.raises, kind, _retry=Retry(2, [0])))
        failed = expect(app, job, JobStatus.FAILED, attempts=2)
        assert reason in (failed.error or "")
        assert len(failed.error or "") < 200_000
        assert [e.status.value for e in app.get_executions(job)] == ["failed", "failed"]
        assert app.apply(handlers.echo, 1, timeout=20) == 1
    outside.nothing_is_left_behind()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("exits when encoded", "while it is encoded"),
        ("NUL", "no NUL character"),
        ("surrogate", "lone surrogate"),
        ("endless", "cannot be"),
        ("deep", "nested too deeply"),
        ("NaN", "cannot be encoded"),
    ],
)
def test_a_result_that_cannot_be_stored_is_one_failed_attempt_with_the_reason(
    app: Werk, outside: Outside, kind: str, reason: str
) -> None:
    with thread_worker(app, concurrency=1):
        job = enqueued(app.enqueue(handlers.returns, kind))
        failed = expect(app, job, JobStatus.FAILED, attempts=1)
        assert reason in (failed.error or "")
        assert app.apply(handlers.echo, 1, timeout=20) == 1
    outside.nothing_is_left_behind()


@pytest.mark.slow
def test_handlers_that_take_their_process_along_end_and_hold_up_nobody(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    process = worker_process(processes=2, concurrency=4)
    others = [enqueued(app.enqueue(handlers.nap, 0.02, _retry=Retry(20, [0]))) for _ in range(100)]
    poison: list[tuple[Any, dict[str, Any], str]] = [
        (handlers.exit_hard, {"_retry": Retry(2, [0])}, "exited with 7"),
        (handlers.segfault, {"_retry": Retry(1, lost=1)}, "SIGSEGV"),
        (handlers.recurse, {}, "RecursionError"),
    ]
    for handler, options, reason in poison:
        job = enqueued(app.enqueue(handler, _priority=1, **options))
        ended = expect(app, job, JobStatus.FAILED, attempts=1)
        assert reason in (ended.error or ""), ended.error
    endless = enqueued(app.enqueue(handlers.blocked_in_c, "endless", 120, _timeout=0.3))
    ended = expect(app, endless, JobStatus.FAILED, attempts=1)
    assert "timed out" in (ended.error or "")
    for job in others:
        expect(app, job, JobStatus.COMPLETE)
    assert app.apply(handlers.echo, 1, timeout=30) == 1
    eventually(lambda: len(process.children()) == 2)
    outside.nothing_is_left_behind()


def test_a_handler_that_ends_its_thread_worker_is_recovered_by_another(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    """Nobody saw it die: its silence tells."""
    worker_process(kind="thread", concurrency=1, config={"heartbeat_interval": 0.3})
    job = enqueued(app.enqueue(handlers.die_once, "a", _retry=Retry(2)))
    notes.wait("a 1")
    with thread_worker(app, heartbeat_interval=0.3):
        expect(app, job, JobStatus.COMPLETE, attempts=1)
    assert "worker lost" in (app.get_executions(job)[0].error or "")


@pytest.mark.postgres
def test_an_outcome_that_the_database_refuses_for_a_while_is_written_later(
    app: Werk, notes: Notes, outside: Outside
) -> None:
    """A missing right, a lock that is held too long, a full disk: not the job's fault."""
    with thread_worker(app, concurrency=3, heartbeat_interval=60):
        plain = enqueued(app.enqueue(handlers.until_noted, "plain", "go"))
        special = enqueued(app.enqueue(handlers.until_noted, "special", "go", _on_success=handlers.on_end))
        raising = enqueued(app.enqueue(handlers.until_noted_fails, "raising", "go"))
        for name in ("plain", "special", "raising"):
            notes.wait(f"start {name}")
        with refusing(app, outside, "disk_full"):
            handlers.note("go")
            for name in ("plain", "special", "raising"):
                notes.wait(f"end {name}")
            eventually(lambda: outside.one(f"select last_value from {_beside(app, 'refused')}") >= 3)
            assert {app.get_job(job).status for job in (plain, special, raising)} == {JobStatus.ACTIVE}
        expect(app, plain, JobStatus.COMPLETE, attempts=1)
        expect(app, special, JobStatus.COMPLETE, attempts=1)
        assert "on purpose" in (expect(app, raising, JobStatus.FAILED, attempts=1).error or "")
        notes.wait(f"callback complete {special.id}")
    assert notes.count("start plain") == 1
    outside.nothing_is_left_behind()


@pytest.mark.parametrize("options", [{}, {"_on_success": handlers.on_end}], ids=["plain", "special"])
@pytest.mark.postgres
def test_a_worker_that_can_write_nothing_does_not_run_one_job_after_the_other(
    app: Werk, notes: Notes, outside: Outside, options: dict[str, Any]
) -> None:
    with thread_worker(app, concurrency=2, heartbeat_interval=60):
        first = enqueued(app.enqueue(handlers.until_noted, "first", "go", **options))
        notes.wait("start first")
        with refusing(app, outside, "disk_full"):
            jobs = [enqueued(app.enqueue(handlers.noted, f"next {n}", **options)) for n in range(40)]
            handlers.note("go")
            eventually(lambda: outside.one(f"select last_value from {_beside(app, 'refused')}") >= 6)
            ran = [note for note in notes.all() if note.startswith("next")]
            assert len(ran) <= 4, "what had been claimed by then, and no more"
        for job in (first, *jobs):
            expect(app, job, JobStatus.COMPLETE, attempts=1)
    assert notes.count("next 0") == 1


@pytest.mark.slow
@pytest.mark.postgres
def test_a_worker_that_can_write_nothing_can_be_stopped_all_the_same(app: Werk, notes: Notes, outside: Outside) -> None:
    job = enqueued(app.enqueue(handlers.until_noted, "a", "go", _retry=Retry(2)))
    with contextlib.ExitStack() as refused:
        with thread_worker(app, shutdown_timeout=0.1):
            notes.wait("start a")
            refused.enter_context(refusing(app, outside, "disk_full"))
            handlers.note("go")
            eventually(lambda: outside.one(f"select last_value from {_beside(app, 'refused')}") >= 2)
        assert app.get_job(job).status is JobStatus.ACTIVE
    assert app.sweep() == [job.id]
    burst(app)
    expect(app, job, JobStatus.COMPLETE, attempts=1)


@contextlib.contextmanager
def refusing(app: Werk, outside: Outside, condition: str) -> Iterator[None]:
    """Let Postgres refuse every record of an attempt; how often is in the sequence "refused"."""
    name = _beside(app, "refuse")
    outside.sql(f"create sequence {_beside(app, 'refused')}")
    outside.sql(
        f"create function {name}() returns trigger language plpgsql as $$ begin "
        # A sequence is not rolled back: it counts.
        f"perform nextval('{_beside(app, 'refused')}'); "
        f"raise exception 'refused by the test' using errcode = '{condition}'; end $$"
    )
    outside.sql(f"create trigger refuse before insert on {{executions}} for each row execute function {name}()")
    try:
        yield
    finally:
        outside.sql("drop trigger refuse on {executions}")


def test_a_settle_that_deadlocks_again_and_again_is_no_failure_of_the_job(
    app: Werk, notes: Notes, outside: Outside
) -> None:
    outside.sql(
        f"create function {_beside(app, 'deadlock')}() returns trigger language plpgsql as $$ begin "
        # A sequence is not rolled back: it counts.
        f"if nextval('{_beside(app, 'seq')}') <= 4 then "
        "raise exception 'deadlock detected' using errcode = 'deadlock_detected'; end if; return new; end $$"
    )
    outside.sql(f"create sequence {_beside(app, 'seq')}")
    outside.sql(
        "create trigger deadlock before insert on {executions} for each row execute function "
        f"{_beside(app, 'deadlock')}()"
    )
    with thread_worker(app, concurrency=1):
        job = enqueued(app.enqueue(handlers.noted, "a"))
        expect(app, job, JobStatus.COMPLETE, attempts=1)
    assert notes.all() == ["a"]


def _beside(app: Werk, name: str) -> str:
    """A name in the schema of the test."""
    return app._app.names.table("jobs")[:-1] + f'_{name}"'


@pytest.mark.postgres
def test_a_result_too_large_for_postgres_fails_with_the_reason_and_holds_up_nobody(app: Werk, outside: Outside) -> None:
    """One text value of jsonb has at most 256 MB; a trigger stands for what would take that long."""
    outside.sql(
        f"create function {_beside(app, 'large')}() returns trigger language plpgsql as $$ begin "
        "if new.result is not null and length(new.result::text) > 100 then "
        "raise exception 'string too long to represent as jsonb string' using errcode = '54000'; end if; "
        "return new; end $$"
    )
    outside.sql(
        f"create trigger large before update on {{jobs}} for each row execute function {_beside(app, 'large')}()"
    )
    with thread_worker(app, concurrency=4):
        jobs = [enqueued(app.enqueue(handlers.echo, "x" * size)) for size in (1, 1000, 2, 2000, 3)]
        for job, status in zip(jobs, ["complete", "failed", "complete", "failed", "complete"], strict=True):
            ended = expect(app, job, JobStatus(status), attempts=1)
            if status == "failed":
                assert "too long to represent" in (ended.error or "")
    outside.nothing_is_left_behind()


def test_every_way_to_end_leaves_the_threads_usable(app: Werk) -> None:
    """Also the loop of a coroutine that was interrupted."""
    with thread_worker(app, concurrency=1):
        for _ in range(3):
            job = enqueued(app.enqueue(endless_coroutine, _timeout=0.1))
            expect(app, job, JobStatus.FAILED)
            assert app.apply(quick_coroutine, timeout=20) == 42


async def endless_coroutine() -> None:
    while True:  # noqa: ASYNC110  # many short sleeps: it is interrupted between them and in them
        await asyncio.sleep(0.005)


async def quick_coroutine() -> int:
    await asyncio.sleep(0.001)
    return 42


# Context ------------------------------------------------------------------------------------------


def test_the_context_knows_the_deadline(app: Werk) -> None:
    with thread_worker(app):
        assert app.apply(handlers.with_deadline, _timeout=7.5, timeout=20) == 7.5
        assert app.apply(handlers.without_deadline, timeout=20) is True


def test_progress_can_be_seen_while_the_job_runs_and_does_not_outlive_a_retry(app: Werk, notes: Notes) -> None:
    with thread_worker(app):
        job = enqueued(app.enqueue(handlers.progressing, "go"))
        notes.wait("start progressing")
        running = app.get_job(job)
        assert running.progress == {"fraction": 0.25, "message": "a quarter"}
        assert running.touched_at is not None
        assert running.started_at is not None
        handlers.note("go")
        ended = expect(app, job, JobStatus.COMPLETE)
        assert ended.progress == {"fraction": 1.0, "message": None}


def test_a_handler_sees_that_it_is_aborted_before_anything_is_raised_and_after(app: Werk, notes: Notes) -> None:
    handlers.SEEN.clear()
    with thread_worker(app):
        job = enqueued(app.enqueue(handlers.until_stopping, "a"))
        notes.wait("start a")
        assert app.abort_job(job)
        expect(app, job, JobStatus.ABORTED)
        eventually(lambda: handlers.SEEN == ["stopping a True"])


def test_the_app_of_the_context_enqueues_and_reads(app: Werk) -> None:
    with thread_worker(app):
        assert app.apply(handlers.inside_app, 7, timeout=20) == 7


def ctx_typed(context: "Context", value: int) -> tuple[str, int]:
    return (context.job.function.rpartition(".")[2], value)


def test_a_context_is_recognised_by_its_annotation(app: Werk) -> None:
    job = enqueued(app.enqueue(ctx_typed, 3))
    burst(app)
    assert app.get_job(job).result == ["ctx_typed", 3]
