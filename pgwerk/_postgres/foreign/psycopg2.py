"""A psycopg2 connection as the executor needs it: SQLAlchemy and Django still bring them.

The caller's connection is joined as it is: never committed, rolled back or reconfigured. Only an operation of several
statements on a connection in autocommit gets a transaction of its own.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import psycopg2
from psycopg2.extensions import (
    TRANSACTION_STATUS_IDLE,
    UNICODE,
    AsIs,
    connection,
    cursor,
    new_type,
    register_type,
)

from pgwerk._core.operation import Rows
from pgwerk._postgres.adapting import fits_all, fitting
from pgwerk.errors import EnqueueError, SerializationError


class Psycopg2Connection:
    """What the executor uses of a psycopg connection, over one of psycopg2's; its errors are psycopg's."""

    def __init__(self, conn: connection) -> None:
        if conn.async_:
            raise EnqueueError("_conn takes no asynchronous psycopg2 connection: nobody would wait for its answers")
        self._conn = conn

    @property
    def autocommit(self) -> bool:
        """Whether each statement commits unless a transaction is begun."""
        return bool(self._conn.autocommit)

    def rows(self, text: bytes, params: Mapping[str, Any] | None) -> Rows:
        """Execute one statement and return its rows; raises psycopg's errors."""
        params = self._sendable(params)
        values = {name: _safe(value) for name, value in params.items()} if params else None
        # A plain cursor: the caller's factory may make rows of another shape.
        with translated_errors(), cursor(self._conn) as own:
            # Whatever was registered for the connection (Django turns off the reading of JSON) is not for us.
            for kind in _TYPES:
                register_type(kind, own)
            # As text, which psycopg2 sends in the encoding of the connection.
            own.execute(text.decode(), values)
            return own.fetchall() if own.description is not None else []

    def _sendable(self, params: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        told = self._conn.info.parameter_status
        client, server = _encoding(told("client_encoding")), _encoding(told("server_encoding"))
        if params is None or fits_all(client, server):
            return params
        # Where psycopg sends UTF-8, psycopg2 sends nothing beyond ASCII.
        return fitting(params, b"ASCII" if client == b"SQL_ASCII" else client, server)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make a block atomic in autocommit: BEGIN and COMMIT, or a savepoint in a transaction begun by hand."""
        outermost = self._conn.info.transaction_status == TRANSACTION_STATUS_IDLE
        begin, commit, rollback = _OUTERMOST if outermost else _NESTED
        _ = self.rows(begin, None)
        try:
            yield
        except BaseException:
            # The error itself is of more interest than a connection that cannot even roll back.
            with contextlib.suppress(psycopg.Error):
                _ = self.rows(rollback, None)
            raise
        _ = self.rows(commit, None)


_JSON = new_type((114, 3802), "PGWERK_JSON", lambda text, _cursor: None if text is None else json.loads(text))

_TIME = new_type((1184,), "PGWERK_TIME", lambda text, _cursor: text)
"""A time is not read as such, see `statements.times`: in some settings psycopg2 could not."""
_TYPES = (UNICODE, _JSON, _TIME)


def _encoding(name: str | None) -> bytes | None:
    return name.encode() if name else None


_OUTERMOST = (b"begin", b"commit", b"rollback")
_NESTED = (
    b"savepoint _pgwerk",
    b"release savepoint _pgwerk",
    b"rollback to savepoint _pgwerk; release savepoint _pgwerk",
)


def _safe(value: Any) -> Any:
    # psycopg2 writes values into the text, where -32768::smallint means -(32768::smallint), which is out of range.
    return AsIs(f"({value})") if isinstance(value, int) and value < 0 else value


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise psycopg's error for each of psycopg2's, found by its SQLSTATE."""
    try:
        yield
    except psycopg2.Error as error:
        raise psycopg_error(error) from error
    except UnicodeError as error:
        raise SerializationError(f"a text does not fit the client_encoding of the connection: {error}") from error


def psycopg_error(error: psycopg2.Error) -> psycopg.Error:
    """The error that psycopg would have raised."""
    text = str(error).strip()
    if error.pgcode is None:
        # A lost connection, or a mistake in using it; the classes have the same names in both.
        kind = getattr(psycopg, type(error).__name__, psycopg.DatabaseError)
        found: psycopg.Error = kind(text)
        return found
    try:
        return psycopg.errors.lookup(error.pgcode)(text)
    except KeyError:
        unknown = psycopg.DatabaseError(text)
        unknown.sqlstate = error.pgcode
        return unknown
