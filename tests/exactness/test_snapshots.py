"""Dependencies that are made in a transaction whose snapshot is older than what became of the parent."""

from collections.abc import Iterator
from typing import Any

import psycopg
import psycopg2
import pytest
from psycopg import IsolationLevel

from pgwerk import Dependency, EnqueueParams, JobStatus, Werk
from pgwerk.errors import DatabaseError, EnqueueError
from tests.exactness import handlers
from tests.exactness.helpers import Outside, enqueued, expect
from tests.fixtures.workers import burst

FIXED = ("repeatable read", "serializable")
LEVELS = {
    "read committed": IsolationLevel.READ_COMMITTED,
    "repeatable read": IsolationLevel.REPEATABLE_READ,
    "serializable": IsolationLevel.SERIALIZABLE,
}


@pytest.fixture(params=["psycopg", "psycopg2"])
def connection(dsn: str, request: pytest.FixtureRequest, level: str) -> Iterator[Any]:
    """A caller's connection at that isolation level."""
    made: Any
    if request.param == "psycopg":
        made = psycopg.connect(dsn)
        made.isolation_level = LEVELS[level]
    else:
        made = psycopg2.connect(dsn)
        made.set_session(isolation_level=level)
    yield made
    made.close()


def look(connection: Any, outside: Outside) -> None:
    """Begin a transaction whose snapshot shows what is there now."""
    cursor = connection.cursor()
    cursor.execute(outside.rendered("select count(*) from {jobs}"))
    assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("level", FIXED)
def test_a_dependency_on_a_job_that_was_swept_meanwhile_is_a_serialization_error(
    app: Werk, outside: Outside, connection: Any, level: str
) -> None:
    parent = enqueued(app.enqueue(handlers.noop, _result_ttl=0))
    look(connection, outside)
    burst(app)
    app.sweep()
    assert outside.count() == 0
    with pytest.raises(DatabaseError) as caught:
        app.enqueue(handlers.noop, _depends_on=[parent], _conn=connection)
    assert caught.value.sqlstate == "40001"
    connection.rollback()
    # The next try of the caller's sees that the job is gone.
    with pytest.raises(EnqueueError, match="does not exist"):
        app.enqueue(handlers.noop, _depends_on=[parent], _conn=connection)
    connection.rollback()
    assert outside.count() == 0


@pytest.mark.parametrize("level", ["read committed"])
def test_a_dependency_on_a_job_that_was_swept_before_is_refused(
    app: Werk, outside: Outside, connection: Any, level: str
) -> None:
    parent = enqueued(app.enqueue(handlers.noop, _result_ttl=0))
    look(connection, outside)
    burst(app)
    app.sweep()
    with pytest.raises(EnqueueError, match="does not exist"):
        app.enqueue(handlers.noop, _depends_on=parent, _conn=connection)
    connection.commit()
    assert outside.count() == 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bulk", [False, True])
def test_a_job_that_ran_meanwhile_is_depended_on_and_stays_until_the_commit(
    app: Werk, outside: Outside, connection: Any, level: str, bulk: bool
) -> None:
    parent = enqueued(app.enqueue(handlers.noop, _result_ttl=3600))
    look(connection, outside)
    burst(app)
    if bulk:
        (child,) = app.enqueue_many(
            [EnqueueParams(handlers.noop, depends_on=Dependency(parent, allow_failure=False))], _conn=connection
        )
    else:
        child = app.enqueue(handlers.noop, _depends_on=parent, _conn=connection)
    outside.sql("update {jobs} set expires_at = now() - interval '1 s' where id = %s", parent.id)
    app.sweep()
    assert outside.count("id = %s", parent.id) == 1, "the caller's transaction holds it"
    connection.commit()
    burst(app)
    expect(app, enqueued(child), JobStatus.COMPLETE)


@pytest.mark.parametrize("level", FIXED)
def test_the_look_at_a_parent_keeps_no_worker_from_ending_it(
    app: Werk, outside: Outside, connection: Any, level: str
) -> None:
    parent = enqueued(app.enqueue(handlers.noop))
    look(connection, outside)
    child = enqueued(app.enqueue(handlers.noop, _depends_on=parent, _conn=connection))
    burst(app)
    assert outside.count("id = %s and status = 'complete'", parent.id) == 1, "while the caller's transaction is open"
    connection.commit()
    burst(app)
    expect(app, child, JobStatus.COMPLETE)


def test_a_foreign_key_of_the_application_holds_up_no_worker(
    app: Werk, dsn: str, outside: Outside, pg: "psycopg.Connection[Any]"
) -> None:
    job = enqueued(app.enqueue(handlers.noop))
    table = outside.rendered("{jobs}").split(".")[0] + ".orders"
    pg.execute(f"create table {table} (job uuid)".encode())
    pg.execute(outside.rendered(f"alter table {table} add foreign key (job) references {{jobs}}").encode())
    with psycopg.connect(dsn) as customer:
        customer.execute(f"insert into {table} values (%s)".encode(), [job.id])
        burst(app)
        assert outside.count("status = 'complete'") == 1, "while the customer's transaction is open"
