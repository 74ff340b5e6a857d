"""What both executors share about psycopg: how to connect, how to read its errors, how to send SQL."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import conninfo, errors, pq
from psycopg.adapt import AdaptersMap, Buffer, Loader, Transformer
from psycopg.types.datetime import TimestamptzBinaryLoader, TimestamptzLoader

from pgwerk._core import lenient
from pgwerk._core.dsn import ENCODE, EXAMPLE, normal, problem, unfit, unreadable
from pgwerk._core.faults import Fault, fault_of
from pgwerk._core.names import Names
from pgwerk._core.operation import Statement
from pgwerk._postgres.adapting import fits_all, fitting
from pgwerk._postgres.unreachable import explained
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

POOL_TIMEOUT = 2.0
"""Seconds to go on trying while Postgres refuses connections."""

ENCODING = {"client_encoding": "UTF8"}
"""What our own connections speak, whatever PGCLIENTENCODING or the server's encoding say. Poolers know it."""

TRIES = 4
"""How many times an operation is tried when Postgres rolls it back for another, or goes away and it may be repeated."""

PROOF_SECONDS = 1.0
"""How long a notification of our own may take to come back through a pooler."""

DEAF = (
    "notifications do not arrive through the connection pooler: polling instead "
    "(set listen_dsn to a direct DSN for instant wake-ups)"
)


def connection_string(dsn: str, application_name: str) -> str:
    """Complete a DSN with timeouts and a name; raises ConfigError when it cannot be read."""
    given = _read(dsn)
    dsn = normal(dsn)
    defaults = {**CONNECTION_DEFAULTS, "application_name": application_name}
    defaults = {name: value for name, value in defaults.items() if name not in given}
    try:
        return conninfo.make_conninfo(dsn, **defaults, **ENCODING)
    except psycopg.ProgrammingError:
        # A client library without tcp_user_timeout.
        defaults.pop("tcp_user_timeout", None)
        return conninfo.make_conninfo(dsn, **defaults, **ENCODING)


def _read(dsn: str) -> dict[str, Any]:
    """Read a DSN; raises ConfigError, which quotes none of it."""
    defaults = {one.keyword.decode(): one for one in pq.Conninfo.get_defaults()}
    why = problem(normal(dsn), defaults)
    if why is None:
        given: dict[str, Any] = {}
        try:
            given = conninfo.conninfo_to_dict(normal(dsn))
            why = unfit(given)
        except psycopg.ProgrammingError:
            why = f"libpq refuses it. {EXAMPLE}. {ENCODE}"
        except UnicodeDecodeError:
            why = f"what is percent-encoded in it is not UTF-8. {ENCODE}"
        if why is None:
            return given
    # Outside of the except: libpq's text, which quotes the password, is not to be found by way of ours.
    raise unreadable(dsn, why, os.environ)


def shown_dsn(dsn: str) -> str:
    """A DSN as it may be shown, with what the environment adds to it, and without its password."""
    try:
        given = _read(dsn)
    except ConfigError:
        return "(unreadable DSN)"
    defaults = {one.keyword.decode(): (one.val or b"").decode("utf-8", "replace") for one in pq.Conninfo.get_defaults()}
    parts = {name: str(given.get(name) or defaults.get(name) or "") for name in SHOWN}
    if parts["service"] and not parts["host"]:
        return f"service {parts['service']}"
    hosts = (parts["host"] or parts["hostaddr"] or "local socket").split(",")
    hosts = [f"[{host}]" if ":" in host else host for host in hosts]
    if parts["host"] or parts["hostaddr"]:
        ports = parts["port"].split(",")
        ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
        hosts = [f"{host}:{port or 5432}" for host, port in zip(hosts, ports, strict=True)]
    user = f"{parts['user']}@" if given.get("user") else ""
    return f"{user}{','.join(hosts)}/{parts['dbname']}"


SHOWN = ("host", "hostaddr", "port", "user", "dbname", "service")
"""What of a DSN is shown."""


class Renderer:
    """SQL texts as psycopg wants them, for one installation; rendered once each."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._texts: dict[tuple[str, bool], bytes] = {}

    def __call__(self, statement: Statement[Any]) -> tuple[bytes, Mapping[str, Any] | None]:
        """The text and the parameters to execute."""
        with_params = bool(statement.params)
        return self.text(statement.sql, with_params=with_params), statement.params if with_params else None

    def text(self, sql: str, *, with_params: bool = False) -> bytes:
        """The text alone."""
        key = (sql, with_params)
        text = self._texts.get(key)
        if text is None:
            text = self._names.render(sql, with_params=with_params).encode()
            self._texts[key] = text
        return text


def translated(error: psycopg.Error, where: str) -> WerkError:
    """The pgwerk error for one of psycopg's; *where* is the DSN as it may be shown."""
    text = str(error).strip() or type(error).__name__
    state = error.sqlstate
    if lost(error):
        return ConnectionFailed(explained(text, where))
    match fault_of(state):
        case Fault.NO_TABLES:
            return SchemaVersionMismatch(
                f"The tables are missing: {_first_line(text)}. Run `werk migrate` with the same --schema and "
                "--prefix, or construct Werk with auto_migrate=True."
            )
        case Fault.OTHER_TABLES:
            return SchemaVersionMismatch(f"The tables are of another version: {_first_line(text)}. Run `werk migrate`.")
        case Fault.PRIVILEGE:
            return DatabaseError(
                f"The database role lacks a privilege: {_first_line(text)}. Migrating needs USAGE and CREATE on the "
                "schema; running needs SELECT, INSERT, UPDATE and DELETE on its tables.",
                state,
            )
        case Fault.CANCELED | Fault.LOCKED:
            return DatabaseError(
                f"Postgres gave up on a statement: {_first_line(text)}. If nobody cancelled it, this is the "
                "statement_timeout or lock_timeout of the role or the database.",
                state,
            )
        case Fault.READ_ONLY:
            return DatabaseError(
                f"Postgres accepts no writes here: {_first_line(text)}. It is a standby, or the transaction (or its "
                "default, default_transaction_read_only) is read-only.",
                state,
            )
        case Fault.VALUE if state is not None and state.startswith(("22", "54")):
            # A malformed value, or one beyond a limit.
            what = "text" if isinstance(error, _ENCODING_ERRORS) else "value"
            return SerializationError(f"Postgres cannot store this {what}: {_first_line(text)}")
        case _:
            return DatabaseError(f"Postgres refused a statement: {text}", state)


_ENCODING_ERRORS = (errors.UntranslatableCharacter, errors.CharacterNotInRepertoire)


def sendable(
    pgconn: pq.abc.PGconn, text: bytes, params: Mapping[str, Any] | None
) -> tuple[bytes, Mapping[str, Any] | None]:
    """A statement in the encodings of its connection; raises SerializationError for what these lack."""
    client, server = pgconn.parameter_status(b"client_encoding"), pgconn.parameter_status(b"server_encoding")
    if params is None or fits_all(client, server):
        return text, params
    return text, fitting(params, client, server)


NOT_COPIED = (
    errors.UniqueViolation,  # walked again: the rows are there, as an INSERT finds out
    errors.FeatureNotSupported,  # row-level security
)
"""What leaves it to an INSERT, although a COPY was tried."""


def can_copy(connection: Any) -> bool:
    """Whether a connection of ours takes rows by COPY: in its encodings, no text has to be looked at."""
    pgconn = connection.pgconn
    return fits_all(pgconn.parameter_status(b"client_encoding"), pgconn.parameter_status(b"server_encoding"))


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


UNREADABLE = (psycopg.DataError, ValueError, RecursionError)
"""What psycopg's loaders raise for a value that Postgres has and Python has not."""


def no_records(error: psycopg.Error) -> bool:
    """Whether *error* only means that a command had no rows to fetch; Postgres's own errors have a code."""
    return isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None


def lost(error: BaseException) -> bool:
    """Whether *error* means that the connection is gone or could not be made."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return fault_of(error.sqlstate) is Fault.LOST


def rolled_back(error: psycopg.Error | DatabaseError) -> bool:
    """Whether the transaction was rolled back for the sake of another: it can simply run again."""
    return error.sqlstate is not None and fault_of(error.sqlstate) is Fault.RETRY


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else text
