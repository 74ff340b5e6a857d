"""The columns of a job's row: which are inserted and how they are typed, which are read and in what order."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from pgwerk._core.job import FailureMode, Job, JobStatus, whole_payload
from pgwerk._core.statements.times import epoch, moment

INSERTED = {
    "id": "uuid",
    "key": "text",
    "function": "text",
    "queue": "text",
    "priority": "smallint",
    "max_attempts": "integer",
    "max_lost": "integer",
    "payload": "jsonb",
    "meta": "jsonb",
    "timeout_secs": "double precision",
    "heartbeat_secs": "double precision",
    "group_key": "text",
    "group_limit": "integer",
    "ttl": "double precision",
    "result_ttl": "double precision",
    "failure_ttl": "double precision",
    "failure_mode": "text",
    "retry_intervals": "jsonb",
    "no_retry": "jsonb",
    "on_success": "text",
    "on_success_timeout": "double precision",
    "on_failure": "text",
    "on_failure_timeout": "double precision",
    "on_stopped": "text",
    "on_stopped_timeout": "double precision",
    "callback_of": "uuid",
    "callback_kind": "text",
    "wait_delay": "double precision",
    "repeat_remaining": "integer",
    "repeat_interval_secs": "double precision",
    "repeat_intervals": "jsonb",
    "schedule_name": "text",
}
"""Columns that a producer sets, with their types; the others have defaults or are computed in the statement."""

JSON_COLUMNS = frozenset(name for name, kind in INSERTED.items() if kind == "jsonb")

SELECTED = (
    "id", "key", "function", "queue", "status", "priority", "attempts", "max_attempts",
    "payload", "result", "error", "meta", "progress", "worker_id", "claim_id",
    "scheduled_at", "enqueued_at", "started_at", "completed_at", "touched_at", "expires_at",
    "timeout_secs", "heartbeat_secs", "group_key", "group_limit",
    "ttl", "result_ttl", "failure_ttl", "failure_mode", "retry_intervals", "no_retry",
    "on_success", "on_success_timeout", "on_failure", "on_failure_timeout",
    "on_stopped", "on_stopped_timeout", "callback_of", "callback_kind",
    "repeat_remaining", "repeat_interval_secs", "repeat_intervals", "schedule_name",
    "lost", "max_lost", "watched", "interrupted",
)  # fmt: skip
"""What a `Job` is read from, in this order."""

_AS_TEXT = frozenset({"id", "worker_id", "callback_of", "payload", "result"})

PARSED_JSON = frozenset({"meta", "progress", "retry_intervals", "no_retry", "repeat_intervals"})
"""What is selected as JSON; all objects or arrays. A driver that hands JSON over as text has to parse these."""

TIMES = ("scheduled_at", "enqueued_at", "started_at", "completed_at", "touched_at", "expires_at")
"""What is selected for `moment`."""


def _selected(name: str) -> str:
    if name in TIMES:
        return epoch(f"j.{name}")
    return f"j.{name}::text" if name in _AS_TEXT else f"j.{name}"


SELECT_LIST = ", ".join(_selected(name) for name in SELECTED)
"""The select list of `SELECTED` for a table alias j. Ids, encoded values and times are read as text."""

SETTLE_LIST = ", ".join("null" if name in ("payload", "result") else _selected(name) for name in SELECTED)
"""The same without the two columns that may be large and that no decision reads."""

Decode = Callable[[str], Any]
"""TurnLoop the JSON text of a stored payload or result into its value."""


def undecoded(_text: str) -> None:
    """Leave a payload or result unread."""


def read_job(row: tuple[Any, ...], decode: Decode) -> Job:
    """Make a job of one row of `SELECT_LIST`."""
    values: dict[str, Any] = dict(zip(SELECTED, row, strict=True))
    values["status"] = JobStatus(values["status"])
    values["failure_mode"] = FailureMode(values["failure_mode"])
    values["lost"], values["interrupted"] = values["lost"] or 0, values["interrupted"] or 0
    for name in ("payload", "result"):
        if values[name] is not None:
            values[name] = decode(values[name])
    if decode is not undecoded:
        values["payload"] = whole_payload(values["payload"])
    for name in TIMES:
        values[name] = moment(values[name])
    return Job.of(values)


def read_settled(rows: Sequence[tuple[Any, ...]]) -> list[Job]:
    """Make jobs of rows of `SETTLE_LIST`."""
    return [read_job(row, undecoded) for row in rows]


def to_json(value: Any) -> str:
    """Encode a value of pgwerk's own (never a user's) for a jsonb column."""
    # Not escaped: a database without an encoding takes the characters, and no escapes for them.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
