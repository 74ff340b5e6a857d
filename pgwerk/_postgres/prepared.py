"""Statements that are sent again and again, without the cursors of psycopg: a third of the cost for the client.

A cursor converts its query, adapts each parameter, decides about preparing and looks at what came back, for every
execution. Where all parameters and columns are plain texts, numbers and truth values, none of that is needed after the
first time. What is unusual in any way is left to a cursor: `exchange` returns None, and nothing has been sent.
"""

import re
from collections.abc import Callable, Generator, Mapping
from itertools import count
from typing import Any

from psycopg import errors, generators, pq
from psycopg.abc import PQGen

from pgwerk._core.operation import Row, Rows

USES = 3
"""From this execution on a text is prepared."""
_KEPT = 50
"""Texts that are prepared on one connection."""

_PLACEHOLDER = re.compile(rb"%%|%\((\w+)\)s")
_STALE = ("26000", "0A000")
"""The prepared statement is gone (a DISCARD ALL), or the tables have changed under it. Nothing was executed."""


class PreparedStatements:
    """What is prepared on one connection, by text."""

    __slots__ = ("_names", "_numbers", "_uses")

    def __init__(self) -> None:
        self._names: dict[bytes, tuple[bytes, tuple[str, ...]]] = {}
        self._uses: dict[bytes, int] = {}
        self._numbers = count(1)

    def exchange(self, pgconn: pq.abc.PGconn, text: bytes, params: Mapping[str, Any]) -> "PQGen[Rows | None]":
        """Execute a statement whose columns are all text; None when a cursor has to do that.

        Raises psycopg's errors.
        """
        prepared = self._names.get(text)
        if prepared is None:
            uses = self._uses[text] = self._uses.get(text, 0) + 1
            if uses < USES or len(self._names) >= _KEPT:
                return None
            prepared = yield from self._prepare(pgconn, text)
        name, order = prepared
        values: list[bytes | None] = []
        for param in order:
            value = params[param]
            if value is None:
                values.append(None)
                continue
            dump = _DUMPS.get(type(value))
            data = dump(value) if dump is not None else None
            if data is None:
                return None
            values.append(data)
        pgconn.send_query_prepared(name, values)
        (*_, result) = yield from generators.execute(pgconn)
        if result.status == pq.ExecStatus.TUPLES_OK:
            return _rows(result)
        error = errors.error_from_result(result)
        if error.sqlstate in _STALE:
            del self._names[text]
            self._uses[text] = 0
            return None
        raise error

    def _prepare(self, pgconn: pq.abc.PGconn, text: bytes) -> Generator[Any, Any, tuple[bytes, tuple[str, ...]]]:
        order: dict[str, int] = {}

        def number(match: re.Match[bytes]) -> bytes:
            param = match[1]
            return b"%" if param is None else b"$%d" % order.setdefault(param.decode(), len(order) + 1)

        numbered = _PLACEHOLDER.sub(number, text)
        name = b"_werk_%d" % next(self._numbers)
        pgconn.send_prepare(name, numbered)
        (*_, result) = yield from generators.execute(pgconn)
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise errors.error_from_result(result)
        made = self._names[text] = name, tuple(order)
        return made


def _text(value: str) -> bytes | None:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        # psycopg has the better error.
        return None
    # libpq would end it there.
    return None if b"\0" in data else data


def _number(value: float) -> bytes:
    return str(value).encode()


_DUMPS: dict[type, Callable[[Any], bytes | None]] = {
    str: _text,
    bool: lambda value: b"t" if value else b"f",
    int: _number,
    float: _number,
}
"""By the exact type: a subclass may be written in another way."""


def _rows(result: pq.abc.PGresult) -> Rows:
    get, columns = result.get_value, range(result.nfields)
    return [_row(get, at, columns) for at in range(result.ntuples)]


def _row(get: Callable[[int, int], bytes | None], at: int, columns: range) -> Row:
    return tuple([None if (data := get(at, column)) is None else data.decode() for column in columns])
