"""What is wrong when the database refuses something, and so what to do about it: one table of SQLSTATEs.

| fault | SQLSTATEs | what is done |
|---|---|---|
| RETRY | 40001, 40P01 | rolled back for the sake of another transaction: run it again |
| LOST | 08…, 57P01, 57P02, 57P03, 57P04, 57P05, 25P03, 25P04, 53300 | the connection is gone or was refused: connect again; whether it took effect is unknown |
| LOCKED | 55P03 | another transaction held a lock for too long: later, and each row by itself |
| VALUE | 22…, 23…, 54…, P0…; none at all: the driver | what was to be written is refused, and would be again: isolate the row |
| CANCELED | 57014 | somebody, or a statement_timeout, gave the statement up |
| NO_TABLES | 42P01, 3F000 | the tables are missing |
| OTHER_TABLES | 42703, 42883 | the tables are of another version |
| PRIVILEGE | 42501 | the role may not do this |
| READ_ONLY | 25006 | a standby, or a read-only transaction |
| OTHER | all else | reported as it is |
"""  # noqa: E501  # a table

from enum import Enum, auto

from pgwerk.errors import ConnectionFailed, DatabaseError, SerializationError


class Fault(Enum):
    """A class of database errors; see the table above."""

    RETRY = auto()
    LOST = auto()
    LOCKED = auto()
    VALUE = auto()
    CANCELED = auto()
    NO_TABLES = auto()
    OTHER_TABLES = auto()
    PRIVILEGE = auto()
    READ_ONLY = auto()
    OTHER = auto()


_STATES = {
    "40001": Fault.RETRY,  # serialization_failure
    "40P01": Fault.RETRY,  # deadlock_detected
    "57P01": Fault.LOST,  # shutting down, or terminated by somebody
    "57P02": Fault.LOST,  # after a crash
    "57P03": Fault.LOST,  # starting up
    "57P04": Fault.LOST,  # the database was dropped
    "57P05": Fault.LOST,  # idle_session_timeout
    "25P03": Fault.LOST,  # idle_in_transaction_session_timeout
    "25P04": Fault.LOST,  # transaction_timeout
    "53300": Fault.LOST,  # too many connections
    "55P03": Fault.LOCKED,  # lock_not_available
    "57014": Fault.CANCELED,  # query_canceled
    "42P01": Fault.NO_TABLES,  # undefined_table
    "3F000": Fault.NO_TABLES,  # invalid_schema_name
    "42703": Fault.OTHER_TABLES,  # undefined_column
    "42883": Fault.OTHER_TABLES,  # undefined_function
    "42501": Fault.PRIVILEGE,  # insufficient_privilege
    "25006": Fault.READ_ONLY,  # read_only_sql_transaction
}
_CLASSES = {
    "08": Fault.LOST,  # connection exceptions
    "22": Fault.VALUE,  # malformed values
    "23": Fault.VALUE,  # constraints, also of the installation's own
    "54": Fault.VALUE,  # beyond a limit of Postgres
    "P0": Fault.VALUE,  # raised by a trigger
}


def fault_of(sqlstate: str | None) -> Fault:
    """Classify by Postgres's own code; None: the driver refused to send what it was given."""
    if sqlstate is None:
        return Fault.VALUE
    return _STATES.get(sqlstate) or _CLASSES.get(sqlstate[:2], Fault.OTHER)


def classify(error: BaseException) -> Fault:
    """Classify one of pgwerk's own errors."""
    if isinstance(error, DatabaseError):
        return fault_of(error.sqlstate)
    if isinstance(error, SerializationError):
        return Fault.VALUE
    return Fault.LOST if isinstance(error, ConnectionFailed) else Fault.OTHER
