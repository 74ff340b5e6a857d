"""Running jobs that are past a deadline, or that no claim knows."""

from collections.abc import Sequence
from datetime import datetime

from pgwerk._core.job import Job
from pgwerk._core.statements import recovery as st
from pgwerk._core.statements.recovery import OVERDUE_GRACE, RunnablePlace, Unclaimed
from pgwerk._core.statuses import RUNNING
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.running import running
from pgwerk._memory.answers.workers import there
from pgwerk._memory.rows import Row, job_of
from pgwerk._memory.store import Store
from pgwerk._memory.values import EARLIEST, later, seconds_text


@answers(st.overdue)
def overdue(store: Store, limit: int, seen: float | None = None) -> list[tuple[str, int, str]]:
    seconds = there(store, seen)
    found: list[tuple[str, int, str]] = []
    for number, claim in sorted(store.tables.claims.items()):
        for row in running(store, number, claim.job_ids):
            reason = _overdue(store, row, seconds)
            if reason is not None and len(found) < limit:
                found.append((row["id"], number, reason))
    return found


def _overdue(store: Store, row: Row, seen: float) -> str | None:
    heartbeat, timeout = row["heartbeat_secs"], row["timeout_secs"]
    if heartbeat is not None and seen >= heartbeat and _is_over(store, row["touched_at"], heartbeat):
        return f"worker lost: the job was not renewed for {seconds_text(heartbeat)} s"
    if timeout is not None and seen >= OVERDUE_GRACE and _is_over(store, row["started_at"], timeout + OVERDUE_GRACE):
        return f"timed out after {seconds_text(timeout)} s, and its worker did not stop it"
    return None


def _is_over(store: Store, since: datetime | None, seconds: float | None) -> bool:
    return since is not None and seconds is not None and later(since, seconds) < store.now


@answers(st.lock_overdue)
def lock_overdue(store: Store, jobs: Sequence[tuple[str, int]], seen: float | None = None) -> list[Job]:
    seconds = there(store, seen)
    rows = {row["id"]: row for id_, number in jobs for row in running(store, number, [id_])}
    return [job_of(rows[id_]) for id_ in sorted(rows) if _overdue(store, rows[id_], seconds) is not None]


@answers(st.unclaimed)
def unclaimed(store: Store, stuck: float, after: RunnablePlace, limit: int) -> Unclaimed:
    queue, rank, at, id_ = after
    start = (queue, rank, EARLIEST if at == "-infinity" else datetime.fromisoformat(at), id_)
    step = sorted((row for row in store.lane("ready") if _runnable_place(row) > start), key=_runnable_place)[:limit]
    found = [
        (row["id"], row["claim_id"] or 0, reason)
        for row in step
        if (reason := _unclaimed(store, row, stuck)) is not None
    ]
    if not step:
        return Unclaimed(found, None)
    queue, rank, moment, id_ = _runnable_place(step[-1])
    return Unclaimed(found, (queue, rank, moment.isoformat(" "), id_))


def _runnable_place(row: Row) -> tuple[str, int, datetime, str]:
    return row["queue"], -row["priority"], row["scheduled_at"], row["id"]


@answers(st.lock_unclaimed)
def lock_unclaimed(store: Store, ids: Sequence[str], stuck: float) -> list[Job]:
    return [job_of(row) for row in store.existing(ids) if _unclaimed(store, row, stuck) is not None]


def _unclaimed(store: Store, row: Row, stuck: float) -> str | None:
    claim = store.tables.claims.get(row["claim_id"] or 0)
    if row["status"] not in RUNNING or (claim is not None and row["id"] in claim.job_ids):
        return None
    heartbeat, timeout = row["heartbeat_secs"], row["timeout_secs"]
    started = row["started_at"] or row["scheduled_at"]
    if _is_over(store, row["touched_at"] or started, heartbeat):
        return f"worker lost: nobody holds it, and it was not renewed for {seconds_text(heartbeat)} s"
    if timeout is not None and _is_over(store, started, timeout + OVERDUE_GRACE):
        return f"timed out after {seconds_text(timeout)} s, and nobody holds it"
    return "worker lost: nobody holds it" if started < store.before(stuck) else None


@answers(st.adopt)
def adopt(store: Store, ids: Sequence[str]) -> None:
    for row in store.existing(ids):
        if row["claim_id"] is None:
            _ = store.change(row["id"], claim_id=0)
