"""What follows from an end, in one transaction with it."""

from collections.abc import Sequence
from datetime import datetime

from pgwerk._app.clock import new_id
from pgwerk._core.job import Job
from pgwerk._core.lifecycle import Verdict
from pgwerk._core.statements import settling as st
from pgwerk._core.statements.settling import COPIED
from pgwerk._core.statuses import UNSTARTED
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.running import running
from pgwerk._memory.answers.telling import tell_due, tell_ended, tell_queued
from pgwerk._memory.rows import Row, job_of
from pgwerk._memory.store import Store


@answers(st.lock_claimed)
def lock_claimed(store: Store, jobs: Sequence[tuple[str, int]]) -> list[Job]:
    rows = {row["id"]: row for id_, number in jobs for row in running(store, number, [id_])}
    return [job_of(rows[id_]) for id_ in sorted(rows)]


@answers(st.lock)
def lock(store: Store, ids: Sequence[str], statuses: Sequence[str]) -> list[Job]:
    return [job_of(row) for row in store.existing(ids) if row["status"] in statuses]


@answers(st.lock_expired)
def lock_expired(store: Store, ids: Sequence[str]) -> list[Job]:
    return [job_of(row) for row in store.existing(ids) if row["status"] in UNSTARTED and is_past(store, row)]


def is_past(store: Store, row: Row) -> bool:
    expires: datetime | None = row["expires_at"]
    return expires is not None and expires < store.now


@answers(st.end_unstarted)
def end_unstarted(store: Store, entries: Sequence[tuple[str, Verdict]]) -> None:
    ended = [
        store.change(
            row["id"], status=verdict.status.value, error=verdict.error, blocked=False, worker_id=None,
            completed_at=store.now, expires_at=store.after(verdict.keep),
        )
        for id_, verdict in entries
        if (row := store.find(id_)) is not None
    ]  # fmt: skip
    tell_ended(store, ended)


# Repetitions --------------------------------------------------------------------------------------


@answers(st.take_keys)
def take_keys(store: Store, ids: Sequence[str]) -> None:
    for row in store.existing(ids):
        _ = store.change(row["id"], key=None)


@answers(st.repeat)
def repeat(store: Store, jobs: Sequence[tuple[Job, float]]) -> None:
    now = store.instant()
    inserted = [
        store.insert(_repetition(store, row, job.key, delay), now, strict=True)
        for job, delay in jobs
        if (row := store.find(job.id)) is not None
    ]
    for new in inserted:
        assert new is not None
        if new["status"] == "queued":
            tell_queued(store, [new], always=True)
        else:
            tell_due(store, new["scheduled_at"], store.now)


def _repetition(store: Store, row: Row, key: str | None, delay: float) -> Row:
    return {
        **{name: row[name] for name in COPIED},
        "id": new_id(),
        "max_attempts": row["max_attempts"] if row["budget"] is None else row["budget"],
        "key": key,
        "repeat_remaining": None if row["repeat_remaining"] is None else row["repeat_remaining"] - 1,
        "status": "scheduled" if delay > 0 else "queued",
        "scheduled_at": store.after(delay),
        "expires_at": None if row["ttl"] is None else store.after(delay + row["ttl"]),
    }
