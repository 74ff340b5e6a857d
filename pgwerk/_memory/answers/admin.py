"""What people do to jobs and queues by hand."""

from collections.abc import Sequence
from datetime import UTC, datetime

from pgwerk._core.notifications import Abort, Queued, make
from pgwerk._core.statements import admin as st
from pgwerk._core.statuses import RUNNING, TERMINAL, UNSTARTED, UNSUCCESSFUL
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.telling import tell_due, tell_queued
from pgwerk._memory.messages import WAKE
from pgwerk._memory.rows import Row
from pgwerk._memory.store import Store
from pgwerk._memory.tables import Pause
from pgwerk._memory.values import aware, stored, text, uuid

_MOST = 10**9


@answers(st.requeue)
def requeue(store: Store, ids: Sequence[str]) -> list[str]:
    requeued = [_requeue(store, row) for row in store.existing(ids) if row["status"] in UNSUCCESSFUL]
    tell_queued(store, requeued, always=True)
    return [row["id"] for row in requeued]


def _requeue(store: Store, row: Row) -> Row:
    budget = row["max_attempts"] if row["budget"] is None else row["budget"]
    return store.change(
        row["id"],
        status="queued",
        max_attempts=min(row["attempts"] + budget, _MOST),
        budget=budget,
        lost=None,
        interrupted=None,
        scheduled_at=store.now,
        completed_at=None,
        started_at=None,
        result=None,
        progress=None,
        awaited=False,
        expires_at=store.after(row["ttl"]),
    )


@answers(st.database_time)
def database_time(store: Store) -> float:
    return store.latest().timestamp()


@answers(st.requeueable)
def requeueable(
    store: Store, queue: str | None, function: str | None, until: float, after: str, limit: int
) -> list[str]:
    first, latest = uuid(after), datetime.fromtimestamp(until, UTC)
    return [
        row["id"]
        for row in store.lane("failed")
        if (queue is None or row["queue"] == queue)
        and (function is None or row["function"] == function)
        and (row["completed_at"] is None or row["completed_at"] <= latest)
        and row["id"] > first
    ][:limit]


@answers(st.cancellable)
def cancellable(store: Store, queue: str | None, before: str, limit: int) -> list[str]:
    last = uuid(before)
    return [
        row["id"]
        for row in (store.jobs[id_] for id_ in sorted(store.jobs, reverse=True) if id_ <= last)
        if row["status"] in UNSTARTED and (queue is None or row["queue"] == queue)
    ][:limit]


@answers(st.start_abort)
def start_abort(store: Store, job_id: str) -> bool:
    row = store.find(job_id)
    if row is None or row["status"] not in RUNNING:
        return False
    _ = store.change(row["id"], status="aborting")
    if row["worker_id"] is not None:
        store.tell(WAKE, make(Abort(row["worker_id"])))
    return True


@answers(st.touch_any)
def touch_any(store: Store, job_id: str) -> bool:
    row = store.find(job_id)
    if row is None or row["status"] not in RUNNING:
        return False
    _ = store.change(row["id"], touched_at=store.now)
    return True


@answers(st.change)
def change(
    store: Store, job_id: str, *, at: datetime | None, delay: float | None, priority: int | None, meta: str | None
) -> list[str | None]:
    row, now = store.find(job_id), store.instant()
    due = aware(at) if at is not None else store.after(delay, now)
    columns: Row = {"priority": priority, "meta": meta}
    # What is no value at all is refused whatever the job.
    columns = stored({name: value for name, value in columns.items() if value is not None})
    unstarted = row is not None and row["status"] in UNSTARTED
    if row is None or not (unstarted or (priority is None and due is None)):
        return []
    if due is not None:
        columns |= _moved(store, row, due, now)
    changed = store.change(row["id"], **columns)
    if changed["status"] != "scheduled":
        tell_queued(store, [changed], always=True)
        return [None]
    tell_due(store, changed["scheduled_at"], now)
    return [changed["group_key"]]


def _moved(store: Store, row: Row, due: datetime, now: datetime) -> Row:
    if row["status"] == "waiting":
        return {"wait_delay": max((due - now).total_seconds(), 0.0), "blocked": False}
    return {
        "scheduled_at": due,
        "expires_at": store.after(row["ttl"], max(due, now)),
        "blocked": False,
        "status": "scheduled" if due > now else "queued",
    }


@answers(st.purgeable)
def purgeable(store: Store, statuses: Sequence[str], older_than: float, after: str, limit: int) -> list[str]:
    first = uuid(after)
    return [row["id"] for row in _ended_before(store, statuses, older_than) if row["id"] > first][:limit]


@answers(st.count_purgeable)
def count_purgeable(store: Store, statuses: Sequence[str], older_than: float) -> int:
    return len(_ended_before(store, statuses, older_than))


def _ended_before(store: Store, statuses: Sequence[str], older_than: float) -> list[Row]:
    before = store.before(older_than)
    return [
        row
        for row in (store.jobs[id_] for id_ in sorted(store.jobs))
        if row["status"] in TERMINAL
        and row["status"] in statuses
        and row["completed_at"] is not None
        and row["completed_at"] < before
    ]


@answers(st.pause)
def pause(store: Store, queue: str, reason: str | None) -> None:
    before = store.tables.queues.get(queue)
    since = before.since if before is not None else None
    store.tables.queues.put(text(queue), Pause(since or store.now, None if reason is None else text(reason)))


@answers(st.competing)
def competing(store: Store, queue: str) -> list[str]:
    members = (row for row in store.claimable(queue, None) if row["group_key"] is not None)
    return sorted({row["group_key"] for row in members})


@answers(st.resume)
def resume(store: Store, queue: str) -> bool:
    before = store.tables.queues.get(queue)
    if before is None or before.since is None:
        return False
    store.tables.queues.put(queue, Pause(None, None))
    for row in store.lane("blocked"):
        if row["queue"] == queue:
            # Meanwhile it was offered no permit.
            _ = store.change(row["id"], blocked=False)
    store.tell(WAKE, make(Queued(queue)))
    return True


@answers(st.vacuum)
def vacuum(store: Store, table: str) -> None:
    pass  # nothing is left behind
