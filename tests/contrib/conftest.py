"""Transactions of applications: the same questions asked through each library that brings its own connection."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg
import psycopg2
import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from pgwerk import Werk


@dataclass
class Caller:
    """An application's transaction: what it passes as `_conn`, and what it can do itself."""

    conn: Any
    driver: Any
    """The driver's connection, to look at."""
    execute: Callable[[str], Any]
    commit: Callable[[], None]
    rollback: Callable[[], None]


def of_driver(connection: Any) -> Caller:
    def execute(text: str) -> Any:
        cursor = connection.cursor()
        cursor.execute(text)
        return cursor.fetchall() if cursor.description else None

    return Caller(connection, connection, execute, connection.commit, connection.rollback)


def with_psycopg(dsn: str, stack: ExitStack) -> Caller:
    return of_driver(stack.enter_context(psycopg.connect(dsn)))


def with_psycopg2(dsn: str, stack: ExitStack) -> Caller:
    connection = psycopg2.connect(dsn)
    stack.callback(connection.close)
    return of_driver(connection)


def _engine(dsn: str, stack: ExitStack, driver: str) -> sa.Engine:
    engine = sa.create_engine(dsn.replace("postgresql://", f"postgresql+{driver}://"))
    stack.callback(engine.dispose)
    return engine


def with_session(driver: str, *, scoped: bool = False) -> Callable[[str, ExitStack], Caller]:
    def make(dsn: str, stack: ExitStack) -> Caller:
        maker = orm.sessionmaker(_engine(dsn, stack, driver))
        session: Any = orm.scoped_session(maker) if scoped else maker()
        stack.callback(session.close)

        def execute(text: str) -> Any:
            result = session.execute(sa.text(text))
            return result.all() if result.returns_rows else None

        return Caller(
            session, session.connection().connection.driver_connection, execute, session.commit, session.rollback
        )

    return make


def with_connection(driver: str) -> Callable[[str, ExitStack], Caller]:
    def make(dsn: str, stack: ExitStack) -> Caller:
        connection = stack.enter_context(_engine(dsn, stack, driver).connect())

        def execute(text: str) -> Any:
            result = connection.execute(sa.text(text))
            return result.all() if result.returns_rows else None

        return Caller(
            connection, connection.connection.driver_connection, execute, connection.commit, connection.rollback
        )

    return make


CALLERS: dict[str, Callable[[str, ExitStack], Caller]] = {
    "psycopg": with_psycopg,
    "psycopg2": with_psycopg2,
    "session-psycopg": with_session("psycopg"),
    "session-psycopg2": with_session("psycopg2"),
    "scoped-session": with_session("psycopg", scoped=True),
    "connection-psycopg": with_connection("psycopg"),
    "connection-psycopg2": with_connection("psycopg2"),
}


@pytest.fixture
def werk(dsn: str, schema: str) -> Iterator[Werk]:
    made = Werk(dsn, schema=schema)
    made.connect()
    yield made
    made.close()


@pytest.fixture(params=list(CALLERS))
def caller(request: pytest.FixtureRequest, dsn: str, schema: str) -> Iterator[Caller]:
    """A transaction of each kind, with a table `things` of the application's own beside the queue."""
    with ExitStack() as stack:
        made = CALLERS[request.param](dsn, stack)
        made.execute(f"create schema if not exists {schema}")
        made.execute(f"create table {schema}.things (name text)")
        made.commit()
        yield made
        made.rollback()
