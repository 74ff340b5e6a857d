"""An asyncpg connection as the asyncio executor needs it.

The caller's connection is joined as it is: never committed, rolled back or reconfigured. Only an operation of several
statements gets a transaction of its own, which inside the caller's is a savepoint.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from functools import lru_cache
from typing import Any

import asyncpg
import psycopg

from pgwerk._core.operation import Rows
from pgwerk._core.statements.columns import PARSED_JSON


class AsyncpgConnection:
    """What the executor uses of a psycopg connection, over one of asyncpg's; its errors are psycopg's."""

    autocommit = True
    """asyncpg has no other mode: without a transaction block each statement commits."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    async def rows(self, text: bytes, params: Mapping[str, Any] | None) -> Rows:
        """Execute one statement and return its rows; raises psycopg's errors."""
        query, names = numbered(text.decode(), _as_text(params)) if params is not None else (text.decode(), ())
        values = [params[name] for name in names] if params is not None else []
        with translated_errors(self._conn):
            return [_row(record) for record in await self._conn.fetch(query, *values)]

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Make a block atomic: BEGIN and COMMIT, or a savepoint inside a transaction of the caller's."""
        # In plain SQL: asyncpg's own transaction() refuses to work inside one that was begun in plain SQL.
        with translated_errors(self._conn):
            begin, commit, rollback = _NESTED if self._conn.is_in_transaction() else _OUTERMOST
            # Each to its end, also when we are cancelled: a transaction that is left open is the caller's trouble.
            cancelled = await _to_its_end(self._conn.execute(begin))
        try:
            if cancelled is not None:
                raise cancelled  # noqa: TRY301  # as if it had arrived inside
            yield
        except BaseException:
            # The error itself is of more interest than a connection that cannot even roll back.
            with contextlib.suppress(psycopg.Error), translated_errors(self._conn):
                _ = await _to_its_end(self._conn.execute(rollback))
            raise
        with translated_errors(self._conn):
            cancelled = await _to_its_end(self._conn.execute(commit))
        if cancelled is not None:
            raise cancelled


async def _to_its_end(statement: Coroutine[Any, Any, Any]) -> asyncio.CancelledError | None:
    """Await a short statement whatever happens; the cancellation that was put off meanwhile."""
    task = asyncio.ensure_future(statement)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            _ = await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    _ = task.result()
    return cancelled


_OUTERMOST = ("begin", "commit", "rollback")
_NESTED = (
    "savepoint _pgwerk",
    "release savepoint _pgwerk",
    "rollback to savepoint _pgwerk; release savepoint _pgwerk",
)

_PLACE = re.compile(r"%\((\w+)\)s(::\w+(?:\[\])?)?|%%")


def _as_text(params: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(name for name, value in params.items() if isinstance(value, str))


@lru_cache(maxsize=1024)
def numbered(text: str, texts: frozenset[str]) -> tuple[str, tuple[str, ...]]:
    """Turn ``%(name)s`` into ``$1``: the query, and the names of its parameters in order.

    *texts*: the parameters that are strings. Where the query casts one of them it is sent as text and cast by
    Postgres; so the codecs that a caller has set for jsonb, and those of arrays, never see our encoded values.
    """
    places: dict[tuple[str, str], int] = {}

    def replace(match: re.Match[str]) -> str:
        name, cast = match[1], match[2] or ""
        if name is None:
            return "%"
        sent = ""
        if cast and name in texts:
            sent = "::text"
        elif cast == "::jsonb[]":
            sent = "::text[]"
        elif cast == "::jsonb":
            sent = "::text"
        number = places.setdefault((name, sent), len(places) + 1)
        return f"${number}{sent}{cast}"

    query = _PLACE.sub(replace, text)
    return query, tuple(name for name, _ in places)


def _row(record: Any) -> tuple[Any, ...]:
    """The values of a record; JSON parsed, unless a codec of the caller's has done so."""
    return tuple(
        json.loads(value) if name in PARSED_JSON and isinstance(value, str) else value for name, value in record.items()
    )


@contextlib.contextmanager
def translated_errors(conn: Any) -> Iterator[None]:
    """Raise psycopg's error for each of asyncpg's, found by its SQLSTATE."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise psycopg_error(error, closed=_is_closed(conn)) from error


def _is_closed(conn: Any) -> bool:
    try:
        return bool(conn.is_closed())
    except asyncpg.InterfaceError:
        # Given back to its pool.
        return True


def psycopg_error(error: BaseException, *, closed: bool) -> psycopg.Error:
    """The error that psycopg would have raised."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        try:
            return psycopg.errors.lookup(error.sqlstate)(text)
        except KeyError:
            unknown = psycopg.DatabaseError(text)
            unknown.sqlstate = error.sqlstate
            return unknown
    if closed or isinstance(error, OSError):
        return psycopg.OperationalError(text)
    # A value that cannot be sent, or a connection that is busy with another statement.
    return psycopg.ProgrammingError(text)
