"""before_enqueue, startup and shutdown hooks, and jobs that run in the calling process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pgwerk import EnqueueError, EnqueueParams, Job, JobStatus, Repeat, Retry, Werk, WerkConfig
from tests.exactness import handlers
from tests.exactness.helpers import Outside, enqueued, expect
from tests.fixtures.workers import Notes, burst, eventually, thread_worker

pytestmark = pytest.mark.in_memory


@contextmanager
def hooked(app: Werk, hook: Any) -> Iterator[None]:
    app.register_before_enqueue(hook)
    try:
        yield
    finally:
        app.unregister_before_enqueue(hook)


def test_a_hook_changes_what_is_inserted(app: Werk, outside: Outside) -> None:
    def change(job: Job) -> None:
        job.queue = "hooked"
        job.priority = 7
        job.meta = {**(job.meta or {}), "trace": "abc"}
        job.payload["kwargs"]["value"] = 42
        job.timeout_secs = 5
        job.result_ttl = 60
        job.max_attempts = 3
        job.group_key = "g"

    with hooked(app, change):
        job = enqueued(app.enqueue(handlers.echo, value=1, _meta={"own": True}))
        other, also = app.enqueue_many([
            EnqueueParams(handlers.echo, kwargs={"value": 2}, timeout=2.5),
            EnqueueParams(handlers.echo, kwargs={"value": 3}),
        ])  # fmt: skip
    for one in (job, other, also):
        stored = app.get_job(enqueued(one))
        assert (stored.queue, stored.priority, stored.timeout_secs, stored.max_attempts) == ("hooked", 7, 5.0, 3)
        assert stored.kwargs == {"value": 42}
        assert (stored.meta or {})["trace"] == "abc"
    burst(app, queues=["hooked"])
    assert app.get_job(job).result == 42
    assert app.enqueue(handlers.noop) is not None
    assert outside.count("queue = 'default'") == 1, "the hook is gone"


def test_a_mixed_bulk_after_hooks_is_inserted_as_it_was_meant(app: Werk) -> None:
    """Whole numbers in one job and fractions in another are one column."""

    def change(job: Job) -> None:
        job.timeout_secs = 5 if job.args[0] % 2 else 2.5

    with hooked(app, change):
        jobs = app.enqueue_many([EnqueueParams(handlers.echo, (number,)) for number in range(4)])
    assert [app.get_job(enqueued(job)).timeout_secs for job in jobs] == [2.5, 5.0, 2.5, 5.0]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("priority", 10**6), ("queue", ""), ("timeout_secs", -1), ("timeout_secs", "soon"), ("max_attempts", 1.5),
        ("key", "a\0b"), ("failure_mode", "explode"), ("function", "no path"), ("on_success", 17), ("group_key", ""),
    ],
)  # fmt: skip
def test_a_hook_that_sets_nonsense_enqueues_nothing(app: Werk, outside: Outside, column: str, value: object) -> None:
    with (
        hooked(app, lambda job: setattr(job, column, value)),
        pytest.raises(EnqueueError),
    ):
        _ = app.enqueue(handlers.noop)
    assert outside.count() == 0


@pytest.mark.postgres
def test_a_hook_that_raises_enqueues_nothing_also_in_a_bulk_and_in_a_transaction(
    app: Werk, dsn: str, outside: Outside
) -> None:
    def refuse(job: Job) -> None:
        if job.args and job.args[0] == "bad":
            raise PermissionError("not you")

    with hooked(app, refuse):
        with pytest.raises(PermissionError, match="not you"):
            _ = app.enqueue(handlers.echo, "bad")
        with pytest.raises(PermissionError, match="not you"):
            _ = app.enqueue_many([EnqueueParams(handlers.echo, (value,)) for value in ("good", "bad")])
        with psycopg.connect(dsn) as connection:
            _ = app.enqueue(handlers.echo, "good", _conn=connection)
            with pytest.raises(PermissionError, match="not you"):
                _ = app.enqueue(handlers.echo, "bad", _conn=connection)
    assert outside.count() == 1


def test_hooks_run_at_the_first_connect_and_at_the_end_also_as_a_context_manager(dsn: str, schema: str) -> None:
    told: list[str] = []
    app = Werk(dsn, schema=schema)
    app.on_startup(lambda: told.append("up"))
    app.on_shutdown(lambda: told.append("down"))
    with app as entered:
        assert entered is app
        app.connect()
        _ = app.enqueue(handlers.noop)
        assert told == ["up"]
    assert told == ["up", "down"]
    app.disconnect()
    assert told == ["up", "down"]
    app.connect()
    app.close()
    assert told == ["up", "down", "up", "down"]


def test_a_worker_runs_the_startup_hooks_of_its_app(dsn: str, schema: str) -> None:
    told: list[str] = []
    app = Werk(dsn, schema=schema, config=WerkConfig())
    app.on_startup(lambda: told.append("up"))
    try:
        burst(app)
    finally:
        app.close()
    assert told == ["up"]


# _sync ------------------------------------------------------------------------------------------------------


def test_a_job_runs_in_place_and_is_recorded_as_if_a_worker_had_run_it(app: Werk, outside: Outside) -> None:
    seen: list[int] = []
    job = enqueued(app.enqueue(handlers.echo, 5, _sync=True, _meta={"a": 1}, _queue="q", _delay=3600))
    seen.append(threading.get_ident())
    assert (job.status, job.result, job.attempts, job.worker_id) == (JobStatus.COMPLETE, 5, 1, None)
    assert job.started_at is not None
    assert [(e.status.value, e.attempt, e.result) for e in app.get_executions(job)] == [("complete", 1, 5)]
    outside.nothing_is_left_behind()
    assert outside.one("select count(*) from {claims}") == 0


def test_a_failure_in_place_uses_its_attempts_and_runs_its_callback_later(
    app: Werk, notes: Notes, outside: Outside
) -> None:
    fails = enqueued(app.enqueue(handlers.writes_and_fails, 5, _sync=True, _retry=3, _on_failure=handlers.on_end))
    assert (fails.status, fails.attempts) == (JobStatus.FAILED, 3)
    assert "attempt 3" in (fails.error or "")
    assert [e.status.value for e in app.get_executions(fails)] == ["failed"] * 3
    recovers = enqueued(app.enqueue(handlers.writes_and_fails, 1, _sync=True, _retry=Retry(3, [3600])))
    assert (recovers.status, recovers.result, recovers.attempts) == (JobStatus.COMPLETE, 2, 2)
    burst(app)
    assert notes.all() == [f"callback failed {fails.id}"]
    outside.nothing_is_left_behind()


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("handler", [handlers.noop, handlers.fails])
@pytest.mark.postgres
def test_a_record_in_the_callers_transaction_is_there_if_and_only_if_it_commits(
    app: Werk, dsn: str, outside: Outside, end: str, handler: Any
) -> None:
    with psycopg.connect(dsn) as connection:
        job = enqueued(app.enqueue(handler, _sync=True, _conn=connection))
        assert job.status.terminal
        assert outside.count() == 0
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        getattr(connection, end)()
    assert outside.count() == (end == "commit")
    assert outside.one("select count(*) from {executions}") == (end == "commit")
    outside.nothing_is_left_behind()


def test_a_key_that_exists_runs_nothing(app: Werk, notes: Notes) -> None:
    assert app.enqueue(handlers.noted, "first", _sync=True, _key="k") is not None
    assert app.enqueue(handlers.noted, "second", _sync=True, _key="k") is None
    assert notes.all() == ["first"]


def test_a_job_in_place_has_a_context_and_its_repetitions_are_for_workers(app: Werk, notes: Notes) -> None:
    first = enqueued(
        app.enqueue(handlers.repeating, "a", _sync=True, _meta={"name": "a"}, _repeat=Repeat(1), _key="again")
    )
    assert first.status is JobStatus.COMPLETE
    deadline = enqueued(app.enqueue(handlers.with_deadline, _sync=True, _timeout=9))
    assert deadline.result == 9.0
    burst(app)
    assert notes.all() == ["run a 1", "run a 0"]


def test_a_job_in_place_that_takes_longer_than_a_worker_may_be_silent_runs_once(
    app: Werk, notes: Notes, outside: Outside
) -> None:
    with thread_worker(app, sweep_interval=0.1):
        thread = threading.Thread(
            target=app.enqueue,
            args=(handlers.until_noted, "a", "go"),
            kwargs={"_sync": True, "_retry": Retry(3)},
        )
        thread.start()
        notes.wait("start a")
        # Until a job of a worker that nobody knows would have been recovered.
        silent = "select count(*) from {claims} where claimed_at < now() - %s * interval '1 s'"
        eventually(lambda: outside.one(silent, app._app.liveness + 0.5))
        assert app.sweep() == []
        handlers.note("go")
        thread.join()
    assert notes.count("start a") == 1
    assert outside.sql("select status, attempts from {jobs}") == [("complete", 1)]


def test_the_result_of_a_job_in_place_can_be_applied(app: Werk) -> None:
    assert app.apply(handlers.echo, 5, _sync=True, timeout=5) == 5


def test_a_job_in_place_inside_a_job_leaves_the_outer_one_as_it_was(app: Werk, notes: Notes) -> None:
    with thread_worker(app, concurrency=1):
        assert app.apply(handlers.sync_inside, 5, timeout=20) == 5


def test_an_abort_of_the_outer_job_arrives_although_it_runs_another_in_place(
    app: Werk, notes: Notes, outside: Outside
) -> None:
    with thread_worker(app, concurrency=1):
        job = enqueued(app.enqueue(runs_a_nap_in_place))
        notes.wait("start inner")
        assert app.abort_job(job)
        expect(app, job, JobStatus.ABORTED)
        eventually(lambda: app.apply(handlers.echo, 1, timeout=20) == 1)
    assert "after it" not in notes.all()
    assert outside.count("status = 'failed' and function like '%%named_nap'") == 1


def runs_a_nap_in_place(ctx: Any) -> None:
    inner = ctx.app.enqueue(handlers.named_nap, "inner", 20, _sync=True)
    handlers.note("after it" if inner else "none")


def test_what_cannot_run_at_once_is_refused(app: Werk, outside: Outside) -> None:
    parent = enqueued(app.enqueue(handlers.noop, _delay=3600))
    refused: list[dict[str, Any]] = [{"_depends_on": parent}, {"_group": "g"}]
    for options in refused:
        with pytest.raises(EnqueueError, match="_sync"):
            _ = app.enqueue(handlers.noop, _sync=True, **options)
    assert outside.count() == 1
