"""The psycopg connection behind whatever a caller has: SQLAlchemy, Django, or psycopg itself.

Recognised by what they can do, so that none of these libraries is imported.
"""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
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


def usable_connection(conn: Any) -> Any:
    """Find the driver's connection of *conn*, or raise EnqueueError.

    Takes a psycopg connection, a SQLAlchemy Session (scoped or not) or Connection, a Django connection or its alias.
    """
    found = driver_connection(conn)
    if _is_psycopg(found):
        return found
    if _is_psycopg2(found):
        from pgwerk.contrib.psycopg2 import Psycopg2Connection  # noqa: PLC0415  # only who has it needs it

        return Psycopg2Connection(found)
    kind = f"{type(found).__module__}.{type(found).__qualname__}"
    raise EnqueueError(
        f"_conn takes a psycopg or psycopg2 connection, a SQLAlchemy Session or Connection, or a Django connection "
        f"or its alias, not {kind}"
    )


def driver_connection(conn: Any) -> Any:
    """Unwrap *conn* down to the driver's own connection."""
    if isinstance(conn, str):
        conn = _django_connection(conn)
    if _is_psycopg(conn) or _is_psycopg2(conn):
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


def _is_psycopg(conn: Any) -> bool:
    psycopg = sys.modules.get("psycopg")
    return psycopg is not None and isinstance(conn, (psycopg.Connection, psycopg.AsyncConnection))


def _is_psycopg2(conn: Any) -> bool:
    extensions = sys.modules.get("psycopg2.extensions")
    return extensions is not None and isinstance(conn, extensions.connection)


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
