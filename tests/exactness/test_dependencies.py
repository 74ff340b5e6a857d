"""Dependents with real workers: released once, whatever order enqueue, settle and commit happen in."""

import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgwerk import Dependency, EnqueueParams, Job, JobStatus, Repeat, Retry, Werk
from pgwerk.errors import ConnectionFailed
from pgwerk.sync.listener import Listener
from tests.exactness import handlers
from tests.exactness.helpers import Outside, Start, enqueued, expect
from tests.fixtures.workers import Notes, burst, eventually, living_workers, thread_worker

pytestmark = pytest.mark.in_memory


@pytest.mark.slow
@pytest.mark.postgres
def test_children_enqueued_while_their_parents_finish_are_released_exactly_once(
    app: Werk, dsn: str, notes: Notes, outside: Outside
) -> None:
    """Four producers race two workers, each child by itself, in a bulk, or inside a transaction held open a while."""

    def produce(producer: int) -> list[Job]:
        draw = random.Random(producer)
        made: list[Job] = []
        with psycopg.connect(dsn) as connection:
            for number in range(25):
                name = f"{producer}.{number}"
                way = draw.randrange(4)
                if way == 0:
                    parent = enqueued(app.enqueue(handlers.noop))
                    made.append(enqueued(app.enqueue(handlers.noted, name, _depends_on=parent)))
                elif way == 1:
                    parent = enqueued(app.enqueue(handlers.noop))
                    made.append(enqueued(app.enqueue(handlers.noted, name, _depends_on=parent, _conn=connection)))
                    connection.commit()
                elif way == 2:
                    parent = enqueued(app.enqueue(handlers.noop, _conn=connection))
                    made.append(enqueued(app.enqueue(handlers.noted, name, _depends_on=parent, _conn=connection)))
                    connection.commit()
                else:
                    parents = [enqueued(app.enqueue(handlers.noop)) for _ in range(3)]
                    (job,) = app.enqueue_many([EnqueueParams(handlers.noted, (name,), depends_on=parents)])
                    made.append(enqueued(job))
        return made

    with thread_worker(app, concurrency=2), thread_worker(app, concurrency=2), ThreadPoolExecutor(4) as pool:
        jobs = list(itertools.chain.from_iterable(pool.map(produce, range(4))))
        for job in jobs:
            expect(app, job, JobStatus.COMPLETE, attempts=1)
    assert sorted(notes.all()) == sorted(f"{producer}.{number}" for producer in range(4) for number in range(25))
    assert outside.count("attempts <> 1") == 0
    outside.nothing_is_left_behind()


def test_a_chain_of_twenty_runs_in_order_over_several_processes(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    worker_process(processes=2, concurrency=4)
    living_workers(app, 2)
    previous: Job | None = None
    for number in range(20):
        previous = enqueued(app.enqueue(handlers.noted, str(number), _depends_on=previous))
    assert previous is not None
    expect(app, previous, JobStatus.COMPLETE)
    assert notes.all() == [str(number) for number in range(20)]
    outside.nothing_is_left_behind()


def test_a_broken_chain_of_twenty_fails_to_its_end_and_runs_nothing(app: Werk, notes: Notes, outside: Outside) -> None:
    first = previous = enqueued(app.enqueue(handlers.fails, _delay=3600))
    for number in range(20):
        previous = enqueued(app.enqueue(handlers.noted, str(number), _depends_on=previous))
    with thread_worker(app):
        assert app.update_job(first, delay=0)
        ended = expect(app, previous, JobStatus.FAILED, attempts=0)
    assert (ended.error or "").startswith("dependency failed")
    assert notes.all() == []
    assert outside.count("status = 'failed'") == 21


def test_diamonds_and_a_fan_in_of_fifty_are_released_once(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    worker_process(processes=2, concurrency=8)
    living_workers(app, 2)
    top = enqueued(app.enqueue(handlers.noted, "top"))
    middle = [enqueued(app.enqueue(handlers.noted, "middle", _depends_on=top)) for _ in range(50)]
    bottom = enqueued(app.enqueue(handlers.noted, "bottom", _depends_on=middle))
    also = enqueued(app.enqueue(handlers.noted, "also", _depends_on=[top, *middle[:2]]))
    expect(app, bottom, JobStatus.COMPLETE, attempts=1)
    expect(app, also, JobStatus.COMPLETE, attempts=1)
    told = notes.all()
    assert told[0] == "top"
    assert told.count("middle") == 50
    assert told.count("bottom") == 1
    assert told.count("also") == 1
    assert told.index("bottom") > max(place for place, what in enumerate(told) if what == "middle")
    assert sorted(app.get_job_dependencies(bottom)) == sorted(job.id for job in middle)
    outside.nothing_is_left_behind()


def delete(app: Werk, job: Job, _outside: Outside) -> None:
    app.delete_job(job)


def purge(app: Werk, job: Job, _outside: Outside) -> None:
    """Cancelled first: only what has ended is purged."""
    assert app.cancel_job(job)
    assert app.purge_jobs(["aborted"], older_than_days=0) == 1


def cancel(app: Werk, job: Job, _outside: Outside) -> None:
    assert app.cancel_job(job)


def cancel_all(app: Werk, _job: Job, _outside: Outside) -> None:
    assert app.bulk_cancel_jobs("parents") == 1


def abort(app: Werk, job: Job, _outside: Outside) -> None:
    assert app.abort_job(job)


def expire(app: Werk, job: Job, outside: Outside) -> None:
    outside.sql("update {jobs} set expires_at = now() - interval '1 s' where id = %s", job.id)
    app.sweep()


@pytest.mark.parametrize("way", [delete, purge, cancel, cancel_all, abort, expire])
def test_a_parent_that_never_runs_fails_its_dependents_and_lets_the_tolerant_go_on(
    app: Werk, notes: Notes, outside: Outside, way: Callable[[Werk, Job, Outside], None]
) -> None:
    parent = enqueued(app.enqueue(handlers.noop, _queue="parents", _delay=3600, _ttl=3600))
    strict = enqueued(app.enqueue(handlers.noted, "strict", _depends_on=parent))
    below = enqueued(app.enqueue(handlers.noted, "below", _depends_on=strict))
    tolerant = enqueued(app.enqueue(handlers.noted, "tolerant", _depends_on=Dependency(parent, allow_failure=True)))
    beneath = enqueued(app.enqueue(handlers.noted, "beneath", _depends_on=tolerant))
    with thread_worker(app):
        way(app, parent, outside)
        for job in (strict, below):
            ended = expect(app, job, JobStatus.FAILED, attempts=0, seconds=8)
            assert (ended.error or "").startswith("dependency failed")
        for job in (tolerant, beneath):
            expect(app, job, JobStatus.COMPLETE, seconds=8)
    assert notes.all() == ["tolerant", "beneath"]


@pytest.mark.parametrize("callback", [None, handlers.on_end])
def test_a_failed_parent_that_is_deleted_settles_its_dependents_first(
    app: Werk, notes: Notes, outside: Outside, callback: Callable[..., None] | None
) -> None:
    parent = enqueued(
        app.enqueue(handlers.fails, _failure_mode="delete", _on_failure=callback, _retry=Retry(2), _delay=3600)
    )
    strict = enqueued(app.enqueue(handlers.noted, "strict", _depends_on=parent))
    tolerant = enqueued(app.enqueue(handlers.noted, "tolerant", _depends_on=Dependency(parent, allow_failure=True)))
    with thread_worker(app):
        assert app.update_job(parent, delay=0)
        expect(app, strict, JobStatus.FAILED, attempts=0, seconds=8)
        expect(app, tolerant, JobStatus.COMPLETE, seconds=8)
        eventually(lambda: outside.count("id = %s", parent.id) == 0)
    assert notes.count("tolerant") == 1
    assert notes.count(f"callback failed {parent.id}") == (callback is not None)


def test_a_running_parent_that_is_aborted_fails_its_dependents(app: Werk, notes: Notes) -> None:
    parent = enqueued(app.enqueue(handlers.named_nap, "parent", 30))
    child = enqueued(app.enqueue(handlers.noted, "child", _depends_on=parent))
    with thread_worker(app):
        notes.wait("start parent")
        assert app.abort_job(parent)
        expect(app, child, JobStatus.FAILED, attempts=0, seconds=8)
    assert "child" not in notes.all()


def test_a_running_parent_that_is_deleted_fails_its_dependents_at_once(app: Werk, notes: Notes) -> None:
    parent = enqueued(app.enqueue(handlers.until_noted, "parent", "go"))
    child = enqueued(app.enqueue(handlers.noted, "child", _depends_on=parent))
    with thread_worker(app):
        notes.wait("start parent")
        app.delete_job(parent)
        expect(app, child, JobStatus.FAILED, attempts=0, seconds=8)
        handlers.note("go")
        notes.wait("end parent")
    assert "child" not in notes.all()


def test_a_parent_that_is_lost_with_its_worker_keeps_its_dependents_waiting_until_it_succeeds(
    app: Werk, worker_process: Start, notes: Notes
) -> None:
    parent = enqueued(app.enqueue(handlers.die_once, "parent", _retry=Retry(2)))
    child = enqueued(app.enqueue(handlers.noted, "child", _depends_on=parent))
    worker_process(processes=1, concurrency=1)
    expect(app, child, JobStatus.COMPLETE, attempts=1)
    assert notes.all() == ["parent 1", "parent 1", "child"], "what is lost is no attempt"


def test_a_parent_that_repeats_releases_its_dependents_after_its_first_success(app: Werk, notes: Notes) -> None:
    parent = enqueued(app.enqueue(handlers.noted, "parent", _repeat=Repeat(1, 3600)))
    child = enqueued(app.enqueue(handlers.noted, "child", _depends_on=parent))
    burst(app)
    assert app.get_job(child).status is JobStatus.COMPLETE


def test_the_delay_of_a_child_counts_from_its_release(app: Werk, outside: Outside) -> None:
    parent = enqueued(app.enqueue(handlers.noop))
    child = enqueued(app.enqueue(handlers.noop, _depends_on=parent, _delay=0.5))
    with thread_worker(app):
        expect(app, child, JobStatus.COMPLETE)
    waited = outside.one(
        "select extract(epoch from c.started_at - p.completed_at) from {jobs} c, {jobs} p"
        " where c.id = %s and p.id = %s",
        child.id, parent.id,
    )  # fmt: skip
    assert waited >= 0.5


# A child inside the caller's open transaction ------------------------------------------------------------


@pytest.mark.timing
@pytest.mark.postgres
def test_a_child_committed_long_after_its_parent_finished_starts_within_a_second_by_notification(
    app: Werk, dsn: str, notes: Notes
) -> None:
    with thread_worker(app, poll_interval=60.0, sweep_interval=600.0), psycopg.connect(dsn) as connection:
        parent = enqueued(app.enqueue(handlers.until_noted, "parent", "go"))
        notes.wait("start parent")
        child = enqueued(app.enqueue(handlers.noted, "child", _depends_on=parent, _conn=connection))
        assert child.status is JobStatus.WAITING
        handlers.note("go")
        expect(app, parent, JobStatus.COMPLETE)
        # The worker has looked for late dependents, and gone to sleep.
        eventually(lambda: idle(app, connection))
        connection.commit()
        committed = time.monotonic()
        notes.wait("child")
        assert time.monotonic() - committed < 1.0


def idle(app: Werk, connection: "psycopg.Connection[Any]") -> bool:
    """Whether the worker wants to be told; asked in a transaction that reads what is committed now."""
    row = connection.execute(
        app._app.names.render("select count(*) from {idle}", with_params=False).encode()
    ).fetchone()
    return row is not None and bool(row[0])


@pytest.mark.postgres
def test_a_child_committed_long_after_its_parent_finished_is_released_by_the_sweep_where_nobody_can_listen(
    app: Werk, dsn: str, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Listener) -> None:
        raise ConnectionFailed("notifications do not get through")

    monkeypatch.setattr(Listener, "connect", refuse)
    with (
        thread_worker(app, poll_interval=0.2, sweep_interval=0.3, heartbeat_interval=0.2),
        psycopg.connect(dsn) as connection,
    ):
        parent = enqueued(app.enqueue(handlers.noted, "parent"))
        notes.wait("parent")
        second = enqueued(app.enqueue(handlers.until_noted, "second", "go"))
        notes.wait("start second")
        child = enqueued(app.enqueue(handlers.noted, "child", _depends_on=[parent, second], _conn=connection))
        handlers.note("go")
        expect(app, second, JobStatus.COMPLETE)
        connection.commit()
        expect(app, child, JobStatus.COMPLETE)
    assert notes.count("child") == 1


@pytest.mark.postgres
def test_a_child_whose_transaction_is_rolled_back_never_was(
    app: Werk, dsn: str, notes: Notes, outside: Outside
) -> None:
    with thread_worker(app), psycopg.connect(dsn) as connection:
        parent = enqueued(app.enqueue(handlers.until_noted, "parent", "go"))
        notes.wait("start parent")
        _ = app.enqueue(handlers.noted, "child", _depends_on=parent, _conn=connection)
        handlers.note("go")
        expect(app, parent, JobStatus.COMPLETE)
        connection.rollback()
    assert outside.count() == 1
    assert outside.one("select count(*) from {job_deps}") == 0


def test_deleting_cancelling_and_aborting_parents_while_workers_finish_them_strands_nobody(
    app: Werk, notes: Notes, outside: Outside
) -> None:
    with thread_worker(app, concurrency=4), thread_worker(app, concurrency=4):
        stop = threading.Event()
        made: list[Job] = []

        def disturb(seed: int) -> None:
            draw = random.Random(seed)
            while not stop.is_set():
                job = app.enqueue(handlers.noop, _queue=draw.choice(["default", "nobody"]))
                assert job is not None
                made.append(enqueued(app.enqueue(handlers.noop, _depends_on=job)))
                made.append(enqueued(app.enqueue(handlers.noop, _depends_on=Dependency(made[-1], allow_failure=True))))
                match draw.randrange(3):
                    case 0:
                        app.delete_job(job)
                    case 1:
                        _ = app.abort_job(job)
                    case _:
                        if not app.cancel_job(job):
                            _ = app.abort_job(job)

        with ThreadPoolExecutor(3) as pool:
            running = [pool.submit(disturb, seed) for seed in range(3)]
            eventually(lambda: len(made) >= 150)
            stop.set()
            for one in running:
                one.result()
        eventually(lambda: outside.count("status not in ('complete', 'failed', 'aborted')") == 0, 15)
    outside.nothing_is_left_behind()
