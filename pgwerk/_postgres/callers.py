"""The psycopg connection behind whatever a caller has: SQLAlchemy, Django, or psycopg itself.

Recognised by what they can do, so that none of these libraries is imported.
"""

import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol

from pgwerk._core.operation import Rows
from pgwerk.errors import EnqueueError


class Foreign(Protocol):
    """A connection of another driver, wrapped for the executor. It raises psycopg's errors."""

    @property
    def autocommit(self) -> bool:
        """Whether each statement commits unless a transaction is begun."""
        ...

    def rows(self, text: bytes, params: Mapping[str, Any] | None) -> Rows:
        """Execute one statement and return its rows."""
        ...

    def transaction(self) -> AbstractContextManager[Any]:
        """Make a block atomic, although in autocommit."""
        ...


class AsyncForeign(Protocol):
    """The same for asyncio."""

    @property
    def autocommit(self) -> bool:
        """Whether each statement commits unless a transaction is begun."""
        ...

    async def rows(self, text: bytes, params: Mapping[str, Any] | None) -> Rows:
        """Execute one statement and return its rows."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Make a block atomic, although in autocommit."""
        ...


def usable_connection(conn: Any) -> Any:
    """Find the driver's connection of *conn*, or raise EnqueueError.

    Takes a psycopg connection, a SQLAlchemy Session (scoped or not) or Connection, a Django connection or its alias.
    """
    refuse_asynchronous(conn)
    found = driver_connection(conn)
    refuse_asynchronous(found)
    if is_psycopg(found):
        return found
    if _is_psycopg2(found):
        from pgwerk._postgres.foreign.psycopg2 import Psycopg2Connection  # noqa: PLC0415  # only who has it needs it

        return Psycopg2Connection(found)
    raise EnqueueError(
        f"_conn takes a psycopg or psycopg2 connection, a SQLAlchemy Session or Connection, or a Django connection "
        f"or its alias, not {kind_of(found)}"
    )


def driver_connection(conn: Any) -> Any:
    """Unwrap *conn* down to the driver's own connection."""
    if isinstance(conn, str):
        conn = _django_connection(conn)
    if is_psycopg(conn) or _is_psycopg2(conn):
        return conn
    if hasattr(conn, "ensure_connection"):  # Django
        conn.ensure_connection()
        return conn.connection
    if hasattr(conn, "get_bind") and callable(getattr(conn, "connection", None)):  # SQLAlchemy Session
        conn = conn.connection()
    pooled = getattr(conn, "connection", None)  # SQLAlchemy Connection: begins its transaction when used
    if pooled is not None and hasattr(pooled, "driver_connection"):
        if hasattr(conn, "in_transaction") and not conn.in_transaction() and hasattr(conn, "begin"):
            # Otherwise SQLAlchemy would not know that there is something to commit.
            conn.begin()
        return pooled.driver_connection
    return conn


# Telling them apart -----------------------------------------------------------------


def refuse_asynchronous(conn: Any) -> None:
    """Raise EnqueueError for what only the asyncio app can use."""
    if is_async_psycopg(conn) or is_asyncpg(conn) or is_async_sqlalchemy(conn):
        raise EnqueueError(
            f"_conn is asynchronous ({kind_of(conn)}), and this app is not: "
            "use `await app.aio.enqueue(…, _conn=…)`, or an app of `pgwerk.aio`"
        )


def refuse_synchronous(conn: Any) -> None:
    """Raise EnqueueError for what only the synchronous app can use, without touching it."""
    django = isinstance(conn, str) or hasattr(conn, "ensure_connection")
    sqlalchemy = _is(conn, "sqlalchemy.orm", "Session", "scoped_session") or _is(
        conn, "sqlalchemy.engine", "Connection"
    )
    if django or sqlalchemy or is_psycopg(conn) or _is_psycopg2(conn):
        what = "a Django connection" if django else kind_of(conn)
        raise EnqueueError(
            f"_conn is synchronous ({what}), and this app is not: use `app.sync.enqueue(…, _conn=…)` in the thread "
            "of that connection, or an app of `pgwerk`"
        )


def kind_of(value: Any) -> str:
    """The full name of the class of *value*."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def is_psycopg(conn: Any) -> bool:
    """Whether it is a synchronous psycopg connection."""
    return _is(conn, "psycopg", "Connection")


def is_async_psycopg(conn: Any) -> bool:
    """Whether it is an asynchronous psycopg connection."""
    return _is(conn, "psycopg", "AsyncConnection")


def is_asyncpg(conn: Any) -> bool:
    """Whether it is an asyncpg connection, of its pool or not."""
    return _is(conn, "asyncpg", "Connection") or _is(conn, "asyncpg.pool", "PoolConnectionProxy")


def is_async_sqlalchemy(conn: Any) -> bool:
    """Whether it is an AsyncSession (scoped or not) or AsyncConnection of SQLAlchemy."""
    return _is(conn, "sqlalchemy.ext.asyncio", "AsyncSession", "AsyncConnection", "async_scoped_session")


def _is(value: Any, module: str, *names: str) -> bool:
    """Whether *value* is of one of these classes; without importing what nobody has imported."""
    found = sys.modules.get(module)
    return found is not None and isinstance(value, tuple(getattr(found, name) for name in names))


def _is_psycopg2(conn: Any) -> bool:
    return _is(conn, "psycopg2.extensions", "connection")


def _django_connection(alias: str) -> Any:
    try:
        from django.db import connections  # type: ignore[import-not-found, import-untyped, unused-ignore]  # noqa: PLC0415
    except ImportError:
        raise EnqueueError(
            f"_conn={alias!r}: a name means the alias of a Django database, and Django is not installed"
        ) from None
    try:
        return connections[alias]
    except Exception as error:  # noqa: BLE001  # whatever Django says
        raise EnqueueError(f"_conn={alias!r} is no Django database: {error}") from None
