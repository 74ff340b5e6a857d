"""apply, map and wait_for: woken by the end itself, for any number of threads, on both sides of a fork."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest

from pgwerk import EnqueueError, JobError, JobNotFound, JobStatus, JobTimeout, Werk
from pgwerk.sync.listener import Listener
from pgwerk.sync.runtime import Runtime
from tests.exactness import handlers
from tests.exactness.helpers import Outside, enqueued, expect, in_a_fork
from tests.fixtures.inside import inside
from tests.fixtures.workers import Notes, eventually, thread_worker

pytestmark = pytest.mark.in_memory


@pytest.mark.timing
@pytest.mark.parametrize("way", ["wait_for", "apply", "map"])
def test_whoever_waits_is_woken_within_fifty_milliseconds_of_completion(app: Werk, outside: Outside, way: str) -> None:
    """Polling would take an hour."""
    late: list[float] = []
    with thread_worker(app):
        _ = app.apply(handlers.noop, timeout=20)
        for _ in range(5):
            match way:
                case "wait_for":
                    job = enqueued(app.enqueue(handlers.nap, 0.1))
                    _ = app.wait_for(job, timeout=20, poll_interval=3600)
                case "apply":
                    _ = app.apply(handlers.nap, 0.1, timeout=20, poll_interval=3600)
                case _:
                    _ = app.map(handlers.nap, [{"seconds": 0.1}] * 3, timeout=20, poll_interval=3600)
            late.append(outside.one("select extract(epoch from clock_timestamp() - max(completed_at)) from {jobs}"))
    assert sorted(late)[len(late) // 2] < 0.05, late


class Ears:
    """The connections on which somebody listens for the ends of jobs."""

    def __init__(self, app: Werk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pids: list[int] = []
        connect = Listener.connect

        def noticed(listener: Listener) -> None:
            connect(listener)
            if app._app.names.done_channel in listener._channels and listener._connection is not None:
                self.pids.append(listener._connection.info.backend_pid)

        monkeypatch.setattr(Listener, "connect", noticed)


@pytest.mark.postgres
def test_many_threads_wait_at_once_over_one_listening_connection(app: Werk, monkeypatch: pytest.MonkeyPatch) -> None:
    ears = Ears(app, monkeypatch)
    with thread_worker(app), ThreadPoolExecutor(20) as pool:
        go = threading.Barrier(20)

        def one(number: int) -> int:
            _ = go.wait(20)
            found: int = app.apply(handlers.echo, number, timeout=10, poll_interval=3600)
            return found

        began = time.monotonic()
        for _ in range(20):
            assert list(pool.map(one, range(20))) == list(range(20))
        assert time.monotonic() - began < 10, "none of four hundred was left to the end of its patience"
    assert len(ears.pids) == 1


@pytest.mark.postgres
def test_waiting_goes_on_by_polling_when_the_listening_connection_is_cut(
    app: Werk, notes: Notes, pg: "psycopg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    ears = Ears(app, monkeypatch)
    with thread_worker(app), ThreadPoolExecutor(1) as pool:
        job = enqueued(app.enqueue(handlers.until_noted, "a", "go"))
        notes.wait("start a")
        waiting = pool.submit(app.wait_for, job, timeout=30, poll_interval=0.1)
        eventually(lambda: _awaited(app) == 1)
        pg.execute("select pg_terminate_backend(%s)", [ears.pids[0]])
        handlers.note("go")
        assert waiting.result(30).status is JobStatus.COMPLETE
        # The next one listens again.
        eventually(lambda: app.apply(handlers.echo, 1, timeout=20) == 1 and len(ears.pids) == 2)


def test_map_keeps_the_order_and_raises_or_returns_what_failed(app: Werk) -> None:
    with thread_worker(app):
        given = [{"value": number} for number in range(50)]
        assert app.map(handlers.echo, given, timeout=30) == list(range(50))
        assert app.map(handlers.echo, [], timeout=1) == []
        kwargs = [{"times": 0}, {"times": 1}, {"times": 0}]
        with pytest.raises(JobError, match="attempt 1"):
            _ = app.map("tests.workers.handlers.flaky", kwargs, timeout=30)
        found = app.map("tests.workers.handlers.flaky", kwargs, timeout=30, return_exceptions=True)
        assert (found[0], found[2]) == (1, 1)
        assert isinstance(found[1], JobError)
        assert found[1].job is not None
        assert found[1].job.status is JobStatus.FAILED
        assert app.map(handlers.echo, [{"value": 1}], timeout=30, _queue="default", _priority=3) == [1]


def test_a_key_that_exists_is_an_error_of_its_own_place(app: Werk) -> None:
    _ = app.enqueue(handlers.echo, 0, _key="taken", _delay=3600)
    with thread_worker(app):
        with pytest.raises(JobError, match="taken"):
            _ = app.apply(handlers.echo, 1, _key="taken", timeout=20)
        given: list[dict[str, Any]] = [{"value": 1}, {"value": 2, "_key": "taken"}, {"value": 3}]
        with pytest.raises(JobError, match="taken"):
            _ = app.map(handlers.echo, given, timeout=20)
        found = app.map(handlers.echo, given, timeout=20, return_exceptions=True)
    assert (found[0], found[2]) == (1, 3)
    assert isinstance(found[1], JobError)
    assert "taken" in str(found[1])


def test_waiting_for_what_an_open_transaction_holds_is_refused(app: Werk, dsn: str, outside: Outside) -> None:
    with psycopg.connect(dsn) as connection:
        with pytest.raises(EnqueueError, match="transaction"):
            _ = app.apply(handlers.noop, _conn=connection)
        with pytest.raises(EnqueueError, match="transaction"):
            _ = app.map(handlers.noop, [{}], _conn=connection)
        connection.commit()
    assert outside.count() == 0


@pytest.mark.postgres
def test_a_job_deleted_while_it_is_waited_for_is_not_found(app: Werk) -> None:
    with ThreadPoolExecutor(3) as pool:
        job = enqueued(app.enqueue(handlers.noop))
        waiting = [pool.submit(app.wait_for, job, timeout=20, poll_interval=3600) for _ in range(3)]
        eventually(lambda: _awaited(app) == 1)
        app.delete_job(job)
        for one in waiting:
            with pytest.raises(JobNotFound):
                _ = one.result(20)
    with pytest.raises(JobNotFound):
        _ = app.wait_for("no id at all")


def test_a_job_that_is_deleted_the_moment_it_ends_is_not_found_or_ended(app: Werk) -> None:
    """map() reads the results after the wait."""
    with thread_worker(app, sweep_interval=0.01):
        for _ in range(10):
            try:
                found = app.map(handlers.echo, [{"value": 1}, {"value": 2}], timeout=20, _result_ttl=0)
            except JobNotFound:
                continue
            assert found == [1, 2]


def test_waiting_times_out_and_can_be_taken_up_again(app: Werk) -> None:
    job = enqueued(app.enqueue(handlers.echo, 3))
    for _ in range(2):
        with pytest.raises(JobTimeout):
            _ = app.wait_for(job, timeout=0.05)
    with pytest.raises(TimeoutError):
        _ = app.map(handlers.echo, [{"value": 1}], timeout=0.05)
    with thread_worker(app):
        assert expect(app, job, JobStatus.COMPLETE).result == 3


def test_a_job_queued_again_while_it_is_waited_for_is_waited_for(app: Werk, notes: Notes) -> None:
    job = enqueued(app.enqueue(handlers.fails))
    with thread_worker(app):
        expect(app, job, JobStatus.FAILED)
        assert app.requeue_job(job)
        expect(app, job, JobStatus.FAILED, attempts=2)


@pytest.mark.postgres
def test_an_app_works_on_both_sides_of_a_fork_at_once(app: Werk, notes: Notes, outside: Outside) -> None:
    with thread_worker(app, queues=["default"]), ThreadPoolExecutor(2) as pool:
        assert app.apply(handlers.echo, 0, timeout=20) == 0  # pool, listener and its thread are there

        def child() -> None:
            for number in range(10):
                assert app.apply(handlers.echo, number, timeout=20, poll_interval=5) == number
            assert app.map(handlers.echo, [{"value": n} for n in range(5)], timeout=20) == list(range(5))
            handlers.note("child")

        forks = [pool.submit(in_a_fork, child) for _ in range(2)]
        for number in range(20):
            assert app.apply(handlers.echo, number, timeout=20, poll_interval=5) == number
        assert [fork.result(60) for fork in forks] == [0, 0]
    assert notes.count("child") == 2
    outside.nothing_is_left_behind()


@pytest.mark.timing
@pytest.mark.postgres
def test_a_fork_that_waits_is_woken_too(app: Werk, notes: Notes) -> None:
    with thread_worker(app):
        _ = app.apply(handlers.noop, timeout=20)

        def child() -> None:
            began = time.monotonic()
            _ = app.apply(handlers.noop, timeout=20, poll_interval=3600)
            assert time.monotonic() - began < 2.0

        assert in_a_fork(child) == 0


def _awaited(app: Werk) -> int:
    with inside(app).backend.connect() as connection:
        text = app._app.names.render("select count(*) from {jobs} where awaited", with_params=False)
        row = connection.execute(text.encode()).fetchone()
    return int(row[0]) if row else 0


@pytest.mark.parametrize("wait", ["apply", "map"])
def test_one_deadline_holds_for_the_enqueue_and_the_wait(app: Werk, monkeypatch: pytest.MonkeyPatch, wait: str) -> None:
    """What the enqueue takes is not given to the wait again, and the error speaks of the whole."""
    given: list[float | None] = []
    original = Runtime.wait

    def spy(self: Runtime, ids: list[str], timeout: float | None, poll_interval: float) -> None:
        given.append(timeout)
        original(self, ids, timeout, poll_interval)

    monkeypatch.setattr(Runtime, "wait", spy)
    started = time.monotonic()
    call = partial(app.apply, "app.nobody") if wait == "apply" else partial(app.map, "app.nobody", [{}, {}])
    with pytest.raises(JobTimeout, match=r"unfinished after 1 s \(it keeps running\)"):
        call(timeout=1)
    assert time.monotonic() - started < 2
    assert given[0] is not None
    assert 0 < given[0] < 1
