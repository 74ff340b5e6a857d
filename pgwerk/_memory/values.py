"""What Postgres would not take: each column has a type and bounds, and each error is of the class that it has there.

A value that the type has not is a SerializationError; one that a constraint of the tables refuses a DatabaseError.
"""

import math
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from pgwerk._core.ids import normal_id
from pgwerk._core.job import FailureMode, JobStatus
from pgwerk._core.statements.columns import INSERTED
from pgwerk._memory.jsonb import jsonb
from pgwerk.errors import DatabaseError, SerializationError

Cast = Callable[[Any], Any]
"""Takes a value that is not None and returns it as it is stored, or raises."""

CHECK_VIOLATION, NOT_NULL_VIOLATION, UNIQUE_VIOLATION = "23514", "23502", "23505"

EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = -210_866_803_200.0, 9_224_318_016_000.0
"""The ends of Postgres's time, in seconds since 1970."""
_LONGEST = 2**63 / 1e6
"""Seconds that an interval can hold."""


def refused(what: str) -> DatabaseError:
    """The error for a value that a constraint refuses."""
    return DatabaseError(f"the store refused a row: {what}", CHECK_VIOLATION)


# Types --------------------------------------------------------------------------------------------


def uuid(value: Any) -> str:
    """The canonical text of an id; raises SerializationError for what is none."""
    found = normal_id(value)
    if found is None:
        raise SerializationError(f"{value!r} is not a UUID")
    return found


def text(value: Any) -> str:
    """A text; raises DatabaseError for one with NUL, SerializationError for one with lone surrogates."""
    found = str(value)
    if "\0" in found:
        raise DatabaseError(f"this text cannot be stored, it contains NUL (0x00): {found[:50]!r}")
    if not found.isascii():
        try:
            _ = found.encode()
        except UnicodeEncodeError:
            raise SerializationError(f"this text cannot be stored, it has lone surrogates: {found[:50]!r}") from None
    return found


def integer(bits: int) -> Cast:
    """Whole numbers of a size."""
    most = 2 ** (bits - 1) - 1

    def cast(value: Any) -> int:
        if not -most - 1 <= value <= most:
            raise SerializationError(f"the number {value!r} is out of range: it must be within {-most - 1} and {most}")
        return int(value)

    return cast


# Times --------------------------------------------------------------------------------------------


def later(moment: datetime, seconds: float) -> datetime:
    """The time *seconds* after another one, or the nearest that Python has.

    Raises SerializationError where Postgres has none either.
    """
    try:
        return moment + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        base = (moment - _EPOCH).total_seconds()
        if not abs(seconds) < _LONGEST or not _FIRST <= base + seconds < _LAST:
            raise SerializationError(f"there is no time {seconds!r} seconds after {moment}") from None
        return LATEST if seconds > 0 else EARLIEST


def aware(moment: datetime) -> datetime:
    """The time in UTC; one without a time zone is taken for UTC."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return LATEST if moment.year > 1 else EARLIEST


# Columns ------------------------------------------------------------------------------------------


def _bounded(name: str, cast: Cast, least: Any, most: Any) -> Cast:
    def check(value: Any) -> Any:
        found = cast(value)
        if not least <= found <= most:
            raise refused(f"{name} must be within {least} and {most}, not {value!r}")
        return found

    return check


def _short(name: str, longest: int, *, empty: bool = True) -> Cast:
    def check(value: Any) -> str:
        found = text(value)
        if (len(found) > longest // 4 and len(found.encode()) > longest) or not (found or empty):
            raise refused(f"{name} must be a text of at most {longest} bytes, not {found[:50]!r}")
        return found

    return check


def _one_of(name: str, known: Collection[str]) -> Cast:
    def check(value: Any) -> str:
        found = text(value)
        if found not in known:
            raise refused(f"{name} must be one of {', '.join(known)}, not {value!r}")
        return found

    return check


def _key(value: Any) -> str:
    found = text(value)
    if len(found.encode()) > 2704:
        raise SerializationError(f"the key {found[:50]!r}... is too long for an index")
    return found


_BY_TYPE: dict[str, Cast] = {
    "uuid": uuid,
    "text": text,
    "jsonb": jsonb,
    "smallint": integer(16),
    "integer": integer(32),
    "double precision": float,
}
_BEGIN, _END = datetime(2, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
_TIMES = ("enqueued_at", "expires_at", "started_at", "completed_at", "touched_at")
_DURATIONS = (
    "timeout_secs", "heartbeat_secs", "ttl", "wait_delay", "result_ttl", "failure_ttl", "on_success_timeout",
    "on_failure_timeout", "on_stopped_timeout", "repeat_interval_secs",
)  # fmt: skip
_CASTS: dict[str, Cast] = {
    **{name: _BY_TYPE[kind] for name, kind in INSERTED.items()},
    **{name: _bounded(name, float, 0.0, 1e9) for name in _DURATIONS},
    **{name: _bounded(name, aware, _BEGIN, _END) for name in _TIMES},
    **{name: _short(name, 4096) for name in ("function", "on_success", "on_failure", "on_stopped")},
    "scheduled_at": _bounded("scheduled_at", aware, _BEGIN, datetime(9900, 1, 1, tzinfo=UTC)),
    "attempts": _bounded("attempts", integer(32), 0, 10**9),
    "max_attempts": _bounded("max_attempts", integer(32), 0, 10**9),
    "group_limit": _bounded("group_limit", integer(32), 1, 10000),
    "group_key": _short("group_key", 1024, empty=False),
    "queue": _short("queue", 1024),
    "key": _key,
    "status": _one_of("status", [status.value for status in JobStatus]),
    "failure_mode": _one_of("failure_mode", [mode.value for mode in FailureMode]),
    "error": text,
    "result": jsonb,
    "progress": jsonb,
    "worker_id": uuid,
    "claim_id": integer(64),
    "watched": integer(64),
    "lost": integer(32),
    "interrupted": integer(32),
    "budget": integer(32),
    "blocked": bool,
    "awaited": bool,
}
NOT_NULL = frozenset((
    "id", "scheduled_at", "enqueued_at", "attempts", "max_attempts", "priority", "blocked", "awaited", "queue",
    "status", "function", "failure_mode",
))  # fmt: skip


def stored(columns: dict[str, Any]) -> dict[str, Any]:
    """These columns of a job as they are stored; raises SerializationError or DatabaseError."""
    found: dict[str, Any] = {}
    for name, value in columns.items():
        if value is not None:
            found[name] = _CASTS[name](value)
        elif name in NOT_NULL:
            raise DatabaseError(f"the store refused a row: {name} must not be null", NOT_NULL_VIOLATION)
        else:
            found[name] = None
    return found


def seconds_text(value: float) -> str:
    """A number as Postgres writes it."""
    return repr(value).removesuffix(".0") if math.isfinite(value) else str(value)
