"""What is particular to psycopg2: autocommit, factories, encodings, errors."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import psycopg2.extras
import pytest

from pgwerk import EnqueueError, EnqueueParams, Werk
from pgwerk.errors import ConnectionFailed, DatabaseError, SchemaVersionMismatch, WerkError

WORK = "tests.contrib.handlers.work"
REFUSED = "tests.contrib.handlers.refused"


@pytest.fixture
def connection(dsn: str) -> Iterator[Any]:
    made = psycopg2.connect(dsn)
    yield made
    made.close()


def count(pg: Any, schema: str) -> int:
    row = pg.execute(f"select count(*) from {schema}._pgwerk_jobs").fetchone()
    assert row is not None
    return int(row[0])


def test_in_autocommit_it_is_there_at_once(werk: Werk, connection: Any, pg: Any, schema: str) -> None:
    connection.autocommit = True
    assert werk.enqueue(WORK, _conn=connection).id
    assert count(pg, schema) == 1
    werk.enqueue_many([EnqueueParams(func=WORK)] * 3, _conn=connection)
    assert count(pg, schema) == 4
    assert connection.autocommit
    assert connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE


def test_in_autocommit_several_statements_are_all_or_nothing(werk: Werk, connection: Any, pg: Any, schema: str) -> None:
    connection.autocommit = True
    # The second chunk of a thousand is refused by a rule of this test's table.
    pg.execute(f"alter table {schema}._pgwerk_jobs add check (function <> '{REFUSED}')")
    specs = [EnqueueParams(func=WORK)] * 1000 + [EnqueueParams(func=REFUSED)]
    with pytest.raises(DatabaseError, match="check constraint") as caught:
        werk.enqueue_many(specs, _conn=connection)
    assert caught.value.sqlstate == "23514"
    assert count(pg, schema) == 0
    assert connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_IDLE
    assert werk.enqueue(WORK, _conn=connection).id


def test_a_transaction_begun_by_hand_in_autocommit_is_joined(werk: Werk, connection: Any, pg: Any, schema: str) -> None:
    connection.autocommit = True
    cursor = connection.cursor()
    pg.execute(f"alter table {schema}._pgwerk_jobs add check (function <> '{REFUSED}')")
    cursor.execute("begin")
    werk.enqueue_many([EnqueueParams(func=WORK)] * 3, _conn=connection)
    with pytest.raises(DatabaseError):
        werk.enqueue_many([EnqueueParams(func=REFUSED)] * 2, _conn=connection)
    cursor.execute("select 1")  # the savepoint kept the transaction usable
    assert count(pg, schema) == 0
    cursor.execute("commit")
    assert count(pg, schema) == 3


@pytest.mark.parametrize("factory", ["RealDictCursor", "DictCursor", "NamedTupleCursor", "LoggingCursor"])
def test_cursor_factories_do_not_matter(werk: Werk, dsn: str, factory: str) -> None:
    connection = psycopg2.connect(dsn, cursor_factory=getattr(psycopg2.extras, factory))
    job = werk.enqueue(WORK, _conn=connection)
    werk.enqueue_many([EnqueueParams(func=WORK, key="a"), EnqueueParams(func=WORK)], _conn=connection)
    assert connection.cursor_factory is getattr(psycopg2.extras, factory)
    connection.commit()
    connection.close()
    assert job is not None
    assert werk.get_job(job).id == job.id


def test_a_subclass_of_the_connection_is_one(werk: Werk, dsn: str) -> None:
    class Mine(psycopg2.extensions.connection):  # type: ignore[misc,name-defined,unused-ignore]
        pass

    connection = psycopg2.connect(dsn, connection_factory=Mine)
    assert werk.enqueue(WORK, _conn=connection).id
    connection.close()


def test_another_client_encoding(werk: Werk, connection: Any) -> None:
    connection.set_client_encoding("LATIN1")
    job = werk.enqueue(WORK, "é", _conn=connection, _key="é")
    connection.commit()
    assert job is not None
    assert werk.get_job(job).payload == {"args": ["é"], "kwargs": {}}
    assert werk.get_job(job).key == "é"
    assert connection.encoding == "LATIN1"


def test_a_failed_transaction_says_so(werk: Werk, connection: Any) -> None:
    cursor = connection.cursor()
    with pytest.raises(psycopg2.Error):
        cursor.execute("select 1/0")
    with pytest.raises(DatabaseError) as caught:
        werk.enqueue(WORK, _conn=connection)
    assert caught.value.sqlstate == "25P02"
    connection.rollback()
    assert werk.enqueue(WORK, _conn=connection).id


def test_missing_tables_say_so(dsn: str, schema: str, connection: Any) -> None:
    werk = Werk(dsn, schema=schema, auto_migrate=False)
    with pytest.raises(SchemaVersionMismatch):
        werk.enqueue(WORK, _conn=connection)
    werk.close()


def test_a_lost_connection_says_so(werk: Werk, connection: Any, pg: Any) -> None:
    pg.execute("select pg_terminate_backend(%s)", [connection.info.backend_pid])
    with pytest.raises(ConnectionFailed):
        werk.enqueue(WORK, _conn=connection)


def test_a_closed_connection_says_so(werk: Werk, connection: Any) -> None:
    connection.close()
    with pytest.raises(WerkError):
        werk.enqueue(WORK, _conn=connection)


def test_an_asynchronous_connection_is_refused(werk: Werk, dsn: str) -> None:
    connection = psycopg2.connect(dsn, async_=True)
    psycopg2.extras.wait_select(connection)
    with pytest.raises(EnqueueError, match="asynchronous"):
        werk.enqueue(WORK, _conn=connection)
    connection.close()


def test_something_else_is_refused(werk: Werk) -> None:
    with closing(sqlite3.connect(":memory:")) as other, pytest.raises(EnqueueError, match="sqlite3"):
        werk.enqueue(WORK, _conn=other)
