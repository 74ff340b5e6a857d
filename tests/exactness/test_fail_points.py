"""A worker is killed, or cut off, between any two statements: nothing is lost, and nothing happens twice."""

import logging
import os
import random
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest

from pgwerk import JobStatus, Repeat, Retry, Werk
from pgwerk._app.clock import new_id
from pgwerk._core.procedures.sweep import recover_dead
from tests.exactness import handlers
from tests.exactness.failpoints import burst_with, cut, killed_at
from tests.exactness.helpers import Outside, enqueued
from tests.fixtures.inside import inside
from tests.fixtures.workers import Notes, burst

MOST = 400
"""More points than there are."""
STEP = 1 if os.environ.get("PGWERK_TEST_EVERY_POINT") else 8
"""A run tries one in so many of the points, each run others; there are about a hundred."""


def points() -> Iterator[int]:
    """Points to try, in order; the pytest seed decides which."""
    yield from range(random.randint(1, STEP), MOST, STEP)


class Story:
    """Jobs of every kind, and what must have become of them."""

    def __init__(self, app: Werk, notes: Notes, outside: Outside) -> None:
        self.app, self.notes, self.outside = app, notes, outside
        app.truncate()
        notes.clear()
        self.first = enqueued(
            app.enqueue(
                handlers.repeating, "again", _repeat=Repeat(2), _key="again", _group="g", _priority=2,
                _meta={"name": "again"}, _retry=Retry(50), _on_success=handlers.on_end, _timeout=60, _heartbeat=30,
            )
        )  # fmt: skip
        self.child = enqueued(app.enqueue(handlers.noted, "child", _depends_on=self.first, _retry=Retry(50)))
        self.doomed = enqueued(
            app.enqueue(handlers.fails, _failure_mode="delete", _on_failure=handlers.on_end, _retry=Retry(2))
        )
        self.orphan = enqueued(app.enqueue(handlers.noted, "orphan", _depends_on=self.doomed))
        self.plain = [enqueued(app.enqueue(handlers.noted, f"plain {n}", _retry=Retry(50))) for n in range(3)]

    def check(self) -> None:
        """Everything has ended as it should have, however often somebody died meanwhile."""
        app, notes, outside = self.app, self.notes, self.outside
        outside.nothing_is_left_behind()
        runs = outside.sql(
            "select id::text, repeat_remaining, key, status, priority, group_key, meta, max_attempts, on_success,"
            " timeout_secs, heartbeat_secs, payload from {jobs} where function like %s order by repeat_remaining desc",
            "%repeating",
        )
        assert [(run[1], run[2], run[3]) for run in runs] == [
            (2, None, "complete"), (1, None, "complete"), (0, "again", "complete"),
        ]  # fmt: skip
        assert {repr(run[4:]) for run in runs} == {repr(runs[0][4:])}, "a repetition keeps every option"
        for run in runs:
            assert notes.count(f"callback complete {run[0]}") >= 1
            assert notes.count(f"run again {run[1]}") >= 1
        assert app.get_job(self.child).status is JobStatus.COMPLETE
        assert outside.count("id = %s", self.doomed.id) == 0, "failure_mode='delete'"
        assert notes.count(f"callback failed {self.doomed.id}") >= 1
        orphan = app.get_job(self.orphan)
        assert orphan.status is JobStatus.FAILED
        assert "dependency failed" in (orphan.error or "")
        assert "orphan" not in notes.all()
        assert {app.get_job(job).status for job in self.plain} == {JobStatus.COMPLETE}
        attempts = outside.sql(
            "select j.id from {jobs} j where j.attempts <> (select count(*) from {executions} e "
            "where e.job_id = j.id and not starts_with(coalesce(e.error, ''), 'worker lost'))"
        )
        assert attempts == [], "every attempt has its record"

    def check_once(self) -> None:
        """Nobody died: no handler ran twice."""
        twice = {what: n for what, n in Counter(self.notes.all()).items() if n > 1}
        assert twice == {}
        assert self.outside.count("attempts > 1") == 0


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.CRITICAL, "pgwerk"):
        yield


@pytest.mark.slow
def test_a_worker_killed_before_any_statement_and_after_any_commit_loses_and_doubles_nothing(
    app: Werk, dsn: str, schema: str, notes: Notes, outside: Outside
) -> None:
    for at in points():
        story = Story(app, notes, outside)
        worker_id = new_id()
        app.disconnect()
        code = killed_at(dsn, schema, at, worker_id)
        assert code in (0, -9)
        app._runtime.backend.perform(recover_dead(worker_id, "killed by the test"))
        burst(app, concurrency=2)
        story.check()
        if code == 0:
            story.check_once()
            assert at > 20, "there are that many places to die at"
            return
    pytest.fail("it never got to the end")


@pytest.mark.slow
def test_a_worker_cut_off_before_any_statement_and_after_any_commit_runs_each_job_once(
    app: Werk, dsn: str, schema: str, notes: Notes, outside: Outside
) -> None:
    for at in points():
        story = Story(app, notes, outside)
        struck = burst_with(dsn, schema, at, cut)
        story.check()
        story.check_once()
        if not struck:
            assert at > 20, "there are that many places to be cut off at"
            return
    pytest.fail("it never got to the end")


@pytest.mark.slow
def test_an_enqueue_that_is_cut_off_anywhere_is_all_or_nothing_and_never_doubled(
    app: Werk, dsn: str, schema: str, notes: Notes, outside: Outside
) -> None:
    parent = enqueued(app.enqueue(handlers.noop, _delay=3600))
    for at in range(1, MOST):
        reached = 0
        executor = inside(app).backend
        send, walk = executor._send, executor._walk

        def tick(connection: object) -> None:
            nonlocal reached
            reached += 1
            if reached == at:  # noqa: B023  # called at once
                cut(connection)

        def counted_send(connection: object, statement: object) -> object:
            tick(connection)
            return send(connection, statement)  # noqa: B023

        def counted_walk(connection: object, op: object, *more: object) -> object:
            result = walk(connection, op, *more)  # noqa: B023
            tick(connection)
            return result

        executor._send, executor._walk = counted_send, counted_walk
        try:
            jobs = [app.enqueue(handlers.noop, _key=f"k{at}"), app.enqueue(handlers.noop, _depends_on=parent)]
        finally:
            executor._send, executor._walk = send, walk
        assert all(job is not None for job in jobs), "enqueueing is repeated until it is known"
        assert outside.count() == 1 + 2 * at
        assert outside.count("status = 'waiting'") == at
        assert outside.one("select count(*) from {job_deps}") == at
        if reached < at:
            return
    pytest.fail("it never got to the end")


def test_psycopg_itself_notices_the_cut(app: Werk) -> None:
    with inside(app).backend.connect() as connection:
        with pytest.raises(psycopg.OperationalError):
            cut(connection)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("select 1")
