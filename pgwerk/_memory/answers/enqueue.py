"""Inserting jobs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pgwerk._app.clock import new_id
from pgwerk._core.job import JobStatus
from pgwerk._core.notifications import Waiting, make
from pgwerk._core.statements import enqueue as st
from pgwerk._core.statements.columns import INSERTED
from pgwerk._core.statements.copying import may_run_at_once
from pgwerk._core.statements.enqueue import Inserted, Values
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.telling import tell_due, tell_queued
from pgwerk._memory.messages import WAKE
from pgwerk._memory.rows import Row
from pgwerk._memory.store import Store
from pgwerk._memory.tables import Edge
from pgwerk._memory.values import aware, later, text, uuid


@answers(st.insert)
def insert(store: Store, job: Values, *, always_tell: bool) -> list[Inserted]:
    return _insert(store, [job], always_tell=always_tell)


_DEFAULTS: Values = {"queue": "default", "priority": 0, "max_attempts": 1, "failure_mode": "hold"}


@answers(st.insert_many)
def insert_many(store: Store, jobs: Sequence[Values], *, always_tell: bool) -> list[Inserted]:
    names = {name for job in jobs for name in job}
    # Each has all columns that any of them has; of some of these, null means the default.
    whole = [{name: job.get(name) for name in names} for job in jobs]
    for job in whole:
        job |= {name: value for name, value in _DEFAULTS.items() if name in names and job[name] is None}
        if "id" in names:
            job["id"] = uuid(job["id"])
    inserted = _insert(store, whole, always_tell=always_tell)
    # As there: of jobs that may run at once, all or nothing is told.
    return inserted if len(inserted) == len(jobs) or not may_run_at_once(names) else []


def _insert(store: Store, jobs: Sequence[Values], *, always_tell: bool) -> list[Inserted]:
    now = store.instant()
    rows = [row for job in jobs if (row := store.insert(_values(job, now), now)) is not None]
    tell_queued(store, (row for row in rows if row["status"] == "queued"), always=always_tell)
    due = [row["scheduled_at"] for row in rows if row["status"] == "scheduled"]
    if due and (always_tell or store.tables.idle):
        tell_due(store, min(due), now)
    return [_inserted(row) for row in rows]


def _values(job: Values, now: datetime) -> Row:
    values: dict[str, Any] = {name: value for name, value in job.items() if name in INSERTED}
    if "id" not in values:
        values["id"] = new_id()
    at = job.get("at")
    due = aware(at) if at is not None else later(now, job.get("delay") or 0.0)
    values |= {"scheduled_at": due, "status": "scheduled" if due > now else "queued"}
    if job.get("waiting"):
        values["status"] = "waiting"
    elif job.get("ttl") is not None:
        # Counted from when it may start.
        values["expires_at"] = later(max(due, now), job["ttl"])
    return values


def _inserted(row: Row) -> Inserted:
    return Inserted(row["id"], JobStatus(row["status"]), row["scheduled_at"], row["enqueued_at"])


@answers(st.inserted_before)
def inserted_before(store: Store, *ids: str) -> list[Inserted]:
    return [_inserted(row) for row in store.existing(ids)]


@answers(st.existing)
def existing(store: Store, ids: Sequence[str]) -> list[str]:
    return [row["id"] for row in store.existing(ids)]


@answers(st.link)
def link(store: Store, edges: Sequence[tuple[str, str, bool]]) -> None:
    for job, parent, allow_failure in edges:
        id_, depends_on = uuid(job), uuid(parent)
        if depends_on not in store.tables.edges.of(id_):
            store.tables.edges.put(id_, depends_on, Edge(allow_failure, satisfied=False))


@answers(st.tell_waiting)
def tell_waiting(store: Store, ids: Sequence[str]) -> None:
    if ids:
        store.tell(WAKE, make(Waiting(tuple(map(text, ids)))))
