"""The classes of database errors."""

import re

import psycopg
import pytest
from psycopg import errors

from pgwerk._core import faults
from pgwerk._core.faults import Fault, classify, fault_of
from pgwerk._postgres.driver import lost, rolled_back, translated
from pgwerk.errors import (
    ConnectionFailed,
    DatabaseError,
    HandlerNotFound,
    SchemaVersionMismatch,
    SerializationError,
    WerkError,
)


@pytest.mark.parametrize(
    ("raised", "fault", "becomes"),
    [
        (errors.SerializationFailure, Fault.RETRY, DatabaseError),
        (errors.DeadlockDetected, Fault.RETRY, DatabaseError),
        (errors.AdminShutdown, Fault.LOST, ConnectionFailed),
        (errors.CrashShutdown, Fault.LOST, ConnectionFailed),
        (errors.CannotConnectNow, Fault.LOST, ConnectionFailed),
        (errors.TooManyConnections, Fault.LOST, ConnectionFailed),
        (errors.IdleInTransactionSessionTimeout, Fault.LOST, ConnectionFailed),
        (errors.ConnectionException, Fault.LOST, ConnectionFailed),
        (errors.LockNotAvailable, Fault.LOCKED, DatabaseError),
        (errors.QueryCanceled, Fault.CANCELED, DatabaseError),
        (errors.CheckViolation, Fault.VALUE, DatabaseError),
        (errors.RaiseException, Fault.VALUE, DatabaseError),
        (errors.NumericValueOutOfRange, Fault.VALUE, SerializationError),
        (errors.UntranslatableCharacter, Fault.VALUE, SerializationError),
        (errors.ProgramLimitExceeded, Fault.VALUE, SerializationError),
        (errors.UndefinedTable, Fault.NO_TABLES, SchemaVersionMismatch),
        (errors.InvalidSchemaName, Fault.NO_TABLES, SchemaVersionMismatch),
        (errors.UndefinedColumn, Fault.OTHER_TABLES, SchemaVersionMismatch),
        (errors.InsufficientPrivilege, Fault.PRIVILEGE, DatabaseError),
        (errors.ReadOnlySqlTransaction, Fault.READ_ONLY, DatabaseError),
        (errors.SyntaxError, Fault.OTHER, DatabaseError),
    ],
)
def test_an_error_of_postgres(raised: type[psycopg.Error], fault: Fault, becomes: type[WerkError]) -> None:
    error = raised("why")
    assert fault_of(error.sqlstate) is fault
    assert lost(error) is (fault is Fault.LOST)
    assert rolled_back(error) is (fault is Fault.RETRY)
    ours = translated(error, "somewhere")
    assert type(ours) is becomes
    if not isinstance(ours, SchemaVersionMismatch):
        assert classify(ours) is fault, "the translation keeps the class"
    if isinstance(ours, DatabaseError):
        assert ours.sqlstate == error.sqlstate


def test_an_error_without_a_code() -> None:
    assert lost(psycopg.OperationalError("server closed the connection unexpectedly"))
    assert lost(psycopg.InterfaceError("the connection is closed"))
    refused = psycopg.DataError("integer too large")
    assert not lost(refused)
    assert not rolled_back(refused)
    assert classify(translated(refused, "somewhere")) is Fault.VALUE
    assert not lost(ValueError("not psycopg's"))
    assert classify(HandlerNotFound("x")) is Fault.OTHER


def test_the_table_names_every_fault_and_code() -> None:
    table = faults.__doc__ or ""
    assert re.findall(r"^\| ([A-Z_]+) \|", table, re.MULTILINE) == [fault.name for fault in Fault]
    for fault in Fault:
        (row,) = re.findall(rf"^\| {fault.name} \|([^|]*)\|", table, re.MULTILINE)
        named = set(re.findall(r"[0-9A-Z]{5}", row))
        assert {state for state, of in faults._STATES.items() if of is fault} == named  # the table's own
        assert {state for state, of in faults._CLASSES.items() if of is fault} == set(re.findall(r"(\w\w)…", row))
