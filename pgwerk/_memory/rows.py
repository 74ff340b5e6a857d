"""A job's row as the store keeps it, and what is read from it."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

from pgwerk._core.claim import Claimed
from pgwerk._core.cursor import Place
from pgwerk._core.job import FailureMode, Job, JobStatus, whole_payload
from pgwerk._core.statements.claim_texts import OPTIONS
from pgwerk._core.statements.claims import is_plain
from pgwerk._core.statements.columns import PARSED_JSON, SELECTED, Decode
from pgwerk._core.statuses import UNSUCCESSFUL
from pgwerk._memory.values import stored

Row: TypeAlias = dict[str, Any]
"""All columns by name; never changed in place. Times are aware datetimes; JSON stays the text that was stored."""

_DEFAULTS: Row = {
    **dict.fromkeys((*SELECTED, "wait_delay", "budget")),
    "queue": "default",
    "status": "queued",
    "priority": 0,
    "attempts": 0,
    "max_attempts": 1,
    "failure_mode": "hold",
    "blocked": False,
    "awaited": False,
}


def new_row(values: Row, now: datetime) -> Row:
    """Make the row of a new job; raises where Postgres refuses one of the values."""
    row = {**_DEFAULTS, "scheduled_at": now, "enqueued_at": now}
    row.update(stored({"function": None, **values}))
    return row


def lane(row: Row) -> str:
    """Which index of Postgres would hold the row."""
    status: str = row["status"]
    if status in ("active", "queued", "aborting"):
        return "blocked" if row["blocked"] else "ready"
    return "failed" if status in UNSUCCESSFUL else status


def place(row: Row) -> Place:
    """Where a job stands in the order in which jobs are claimed."""
    return (-row["priority"], row["scheduled_at"], row["id"])


def job_of(row: Row, decode: Decode | None = None) -> Job:
    """Make a job of a row; without *decode*, payload and result are not read."""
    values = {name: row[name] for name in SELECTED}
    values["status"] = JobStatus(values["status"])
    values["failure_mode"] = FailureMode(values["failure_mode"])
    values["lost"], values["interrupted"] = values["lost"] or 0, values["interrupted"] or 0
    for name in PARSED_JSON:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    for name in ("payload", "result"):
        if values[name] is not None:
            values[name] = decode(values[name]) if decode is not None else None
    if decode is not None:
        values["payload"] = whole_payload(values["payload"])
    return Job.of(values)


_OF_ALL = (
    "id", "function", "queue", "priority", "attempts", "max_attempts", "claim_id", "scheduled_at", "enqueued_at",
    "started_at",
)  # fmt: skip
_OF_SOME = tuple(
    name for name in SELECTED if name not in ("payload", "result", "error", "status", "timeout_secs", *_OF_ALL)
)


def claimed_of(row: Row) -> Claimed:
    """Make what a worker gets of a row that was just claimed."""
    if row["failure_mode"] == "hold" and all(row[name] is None for name in OPTIONS):
        return _claimed(row, _bare_job, plain=True, bare=True)
    values = _values(row)
    for name in _OF_SOME:
        value = row[name]
        if value is not None:
            values[name] = json.loads(value) if name in PARSED_JSON else value
    values["failure_mode"] = FailureMode(values["failure_mode"])
    job = Job.of(values)
    return _claimed(row, lambda _row: job, plain=is_plain(values), bare=False)


def _claimed(row: Row, make: Callable[[Row], Job], *, plain: bool, bare: bool) -> Claimed:
    return Claimed(
        row["id"], row["function"], row["claim_id"], row["payload"], row["timeout_secs"], plain, bare, make, row
    )


def _bare_job(row: Row) -> Job:
    return Job.of(_values(row) | {"worker_id": row["worker_id"], "touched_at": row["touched_at"]})


def _values(row: Row) -> dict[str, Any]:
    values = {name: row[name] for name in _OF_ALL}
    return values | {"status": JobStatus.ACTIVE, "timeout_secs": row["timeout_secs"]}
