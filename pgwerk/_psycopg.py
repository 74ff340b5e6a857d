"""What both executors share about psycopg: how to connect, how to read its errors, how to send SQL."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import conninfo, errors, pq
from psycopg.adapt import AdaptersMap, Buffer, Dumper, Loader, Transformer
from psycopg.types.datetime import TimestamptzBinaryLoader, TimestamptzLoader
from psycopg.types.json import JsonbLoader

from pgwerk._core import lenient
from pgwerk._core.operation import Statement
from pgwerk._core.statements.arrays import Packed
from pgwerk._names import Names
from pgwerk.errors import (
    ConfigError,
    ConnectionFailed,
    DatabaseError,
    SchemaVersionMismatch,
    SerializationError,
    WerkError,
)

CONNECTION_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
"""Without these a silent network is noticed after hours; a DSN's own values win."""

POOL_TIMEOUT = 30.0
"""Seconds to wait for a free connection."""

TRIES = 4
"""How often an operation is walked when Postgres rolls it back for another, or goes away and it may repeat."""

PROOF_SECONDS = 1.0
"""How long a notification of our own may take to come back through a pooler."""

DEAF = (
    "notifications do not arrive through the connection pooler: polling instead "
    "(set listen_dsn to a direct DSN for instant wake-ups)"
)

RETRYABLE = (errors.SerializationFailure, errors.DeadlockDetected)
"""The transaction was rolled back for the sake of another: it can simply run again."""


def connection_string(dsn: str, application_name: str) -> str:
    """Complete a DSN with timeouts and a name; raises ConfigError when it cannot be read."""
    try:
        given = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise ConfigError(
            f"the DSN cannot be read: {str(error).strip()}. "
            "It should look like postgresql://user:password@host:5432/database"
        ) from None
    defaults = {**CONNECTION_DEFAULTS, "application_name": application_name}
    defaults = {name: value for name, value in defaults.items() if name not in given}
    try:
        return conninfo.make_conninfo(dsn, **defaults)
    except psycopg.ProgrammingError:
        # A client library without tcp_user_timeout.
        defaults.pop("tcp_user_timeout", None)
        return conninfo.make_conninfo(dsn, **defaults)


def shown_dsn(dsn: str) -> str:
    """A DSN as it may be shown: without its password."""
    try:
        parts = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "(unreadable DSN)"
    host = parts.get("host") or parts.get("hostaddr") or "local socket"
    port = f":{parts['port']}" if parts.get("port") else ""
    user = f"{parts['user']}@" if parts.get("user") else ""
    return f"{user}{host}{port}/{parts.get('dbname') or ''}"


class Renderer:
    """SQL texts as psycopg wants them, for one installation; rendered once each."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._texts: dict[tuple[str, bool], bytes] = {}

    def __call__(self, statement: Statement[Any]) -> tuple[bytes, Mapping[str, Any] | None]:
        """The text and the parameters to execute."""
        with_params = bool(statement.params)
        key = (statement.sql, with_params)
        text = self._texts.get(key)
        if text is None:
            text = self._names.render(statement.sql, with_params=with_params).encode()
            self._texts[key] = text
        return text, statement.params if with_params else None


def translated(error: psycopg.Error, where: str) -> WerkError:
    """The pgwerk error for one of psycopg's; *where* is the DSN as it may be shown."""
    text = str(error).strip() or type(error).__name__
    match error:
        case errors.UndefinedTable() | errors.InvalidSchemaName():
            return SchemaVersionMismatch(
                f"The tables are not there: {_first_line(text)}. Run `werk migrate` with the same --schema and "
                "--prefix, or construct Werk with auto_migrate=True."
            )
        case errors.UndefinedColumn() | errors.UndefinedFunction():
            return SchemaVersionMismatch(f"The tables are of another version: {_first_line(text)}. Run `werk migrate`.")
        case errors.InsufficientPrivilege():
            return DatabaseError(
                f"The database role may not do this: {_first_line(text)}. Migrating needs USAGE and CREATE on the "
                "schema; running needs SELECT, INSERT, UPDATE and DELETE on its tables.",
                error.sqlstate,
            )
        case errors.UntranslatableCharacter() | errors.CharacterNotInRepertoire():
            return SerializationError(f"Postgres cannot store this text: {_first_line(text)}")
        case _:
            pass
    if (error.sqlstate or "").startswith(("22", "54")):
        # A malformed value, or one beyond a limit.
        return SerializationError(f"Postgres cannot store this value: {_first_line(text)}")
    if lost(error):
        return ConnectionFailed(
            f"Postgres at {where} does not answer: {_first_line(text)}. Check that it runs there, and the DSN."
        )
    return DatabaseError(f"Postgres refused a statement: {text}", error.sqlstate)


def read_json(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> None:
    """Make a cursor read JSON, whatever its connection was told: Django's do not."""
    if cursor.adapters.get_loader(_JSONB, pq.Format.TEXT) is not JsonbLoader:
        cursor.adapters.register_loader("jsonb", JsonbLoader)


_JSONB = psycopg.adapters.types["jsonb"].oid


def read_leniently(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> list[tuple[Any, ...]]:
    """Read the rows of a result in which psycopg found a value that Python has not: the nearest stands for it."""
    adapters = AdaptersMap(cursor.adapters)
    adapters.register_loader("timestamptz", _LenientTime)
    adapters.register_loader("timestamptz", _LenientBinaryTime)
    adapters.register_loader("jsonb", _LenientJson)
    adapters.register_loader("jsonb", _LenientBinaryJson)
    transformer = Transformer(_Adapting(adapters, cursor.connection))
    transformer.set_pgresult(cursor.pgresult)
    return transformer.load_rows(0, cursor.pgresult.ntuples if cursor.pgresult else 0, tuple)


@dataclass(frozen=True)
class _Adapting:
    """What a transformer has to be told."""

    adapters: AdaptersMap
    connection: Any


class _LenientTime(TimestamptzLoader):
    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return lenient.moment(bytes(data).decode())


class _LenientBinaryTime(TimestamptzBinaryLoader):
    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return lenient.EARLIEST if bytes(data)[0] & 0x80 else lenient.LATEST


class _LenientJson(Loader):
    def load(self, data: Buffer) -> Any:
        return lenient.loads(bytes(data).decode())


class _LenientBinaryJson(Loader):
    format = pq.Format.BINARY

    def load(self, data: Buffer) -> Any:
        # Behind the number of the format.
        return lenient.loads(bytes(data)[1:].decode())


class _PackedDumper(Dumper):
    """Sends what is packed as it is; its type is that of the cast around the parameter."""

    format = pq.Format.BINARY

    def dump(self, obj: Packed) -> Buffer:
        return obj


# For all connections that are made from here on; nobody else's values are of this class.
psycopg.adapters.register_dumper(Packed, _PackedDumper)


def all_in_use(size: int, where: str) -> str:
    """What to say when no pooled connection became free in time."""
    return (
        f"all {size} connections of this process to Postgres at {where} were in use for "
        f"{POOL_TIMEOUT:g} s; raise WerkConfig(pool_size=…) or look for calls that hang"
    )


UNREADABLE = (psycopg.DataError, ValueError, RecursionError)
"""What psycopg's loaders raise for a value that Postgres has and Python has not."""


def no_records(error: psycopg.Error) -> bool:
    """Whether *error* only means that a command had no rows to fetch; Postgres's own errors have a code."""
    return isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None


def lost(error: BaseException) -> bool:
    """Whether *error* means that the connection is gone or could not be made."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    state = error.sqlstate
    if state is None or isinstance(error, psycopg.InterfaceError):
        return True
    # Connection exceptions, shutting down, starting up, too many connections.
    return state.startswith("08") or state in ("57P01", "57P02", "57P03", "53300")


def finish_if_torn(pgconn: pq.abc.PGconn) -> None:
    """Close a connection that was interrupted in the middle of a pipeline.

    It may look idle, while Postgres waits for the rest of the pipeline with a transaction open.
    """
    if pgconn.status == pq.ConnStatus.OK and pgconn.pipeline_status != pq.PipelineStatus.OFF:
        pgconn.finish()


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else text
