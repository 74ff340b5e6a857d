"""What has to be looked after while jobs run."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from pgwerk._core.statements import upkeep as st
from pgwerk._core.statements.upkeep import LONG_AGO, Past, Promoted
from pgwerk._core.statuses import RUNNING, TERMINAL, UNSTARTED, UNSUCCESSFUL
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.running import running
from pgwerk._memory.answers.telling import tell_ended, tell_queued
from pgwerk._memory.answers.workers import busy
from pgwerk._memory.rows import Row
from pgwerk._memory.store import Store
from pgwerk._memory.values import EARLIEST, uuid

# Scheduled jobs -----------------------------------------------------------------------------------


def _scheduled(store: Store) -> list[Row]:
    return sorted(store.lane("scheduled"), key=lambda row: row["scheduled_at"])


@answers(st.promote)
def promote(store: Store, limit: int) -> Promoted:
    scheduled = _scheduled(store)
    due = [row for row in scheduled if row["scheduled_at"] <= store.now]
    moved = [store.change(row["id"], status="queued") for row in due[:limit]]
    tell_queued(store, moved)
    next_due = [(row["scheduled_at"] - store.now).total_seconds() for row in scheduled[len(due) : len(due) + 1]]
    if len(due) > limit:
        next_due.append(0.05)
    return Promoted(len(moved), min(next_due, default=None))


@answers(st.due)
def due(store: Store, limit: int) -> list[str]:
    return [row["id"] for row in _scheduled(store) if row["scheduled_at"] <= store.now][:limit]


@answers(st.promote_these)
def promote_these(store: Store, ids: Sequence[str]) -> int:
    moved = [
        store.change(row["id"], status="queued")
        for row in store.existing(ids)
        if row["status"] == "scheduled" and row["scheduled_at"] <= store.now
    ]
    tell_queued(store, moved, always=True)
    return len(moved)


# Jobs that hold up others -------------------------------------------------------------------------


@answers(st.next_in)
def next_in(store: Store, queues: Sequence[str], limit: int, skip: Sequence[str] = ()) -> list[str]:
    due = [[row["id"] for row in store.claimable(queue, None) if row["scheduled_at"] <= store.now] for queue in queues]
    return [id_ for ids in due for id_ in [id_ for id_ in ids if id_ not in skip][:limit]]


@answers(st.rehearse_claim)
def rehearse_claim(store: Store, ids: Sequence[str]) -> list[str]:
    queued = [row for row in store.existing(ids) if row["status"] == "queued"]
    for row in queued:
        _ = store.change(
            row["id"], status="active", attempts=row["attempts"] + 1, started_at=store.now, touched_at=store.now
        )
    return [row["id"] for row in queued]


@answers(st.forget_rehearsal)
def forget_rehearsal(store: Store, ids: Sequence[str]) -> None:
    for row in store.existing(ids):
        _ = store.change(row["id"], status="queued", attempts=row["attempts"] - 1, started_at=None, touched_at=None)


@answers(st.give_up)
def give_up(store: Store, job_id: str, reason: str, claim: int | None = None) -> list[str]:
    row = store.find(job_id)
    if row is None or row["status"] in TERMINAL:
        return []
    if claim is not None and (row["claim_id"] != claim or row["status"] not in RUNNING):
        return []
    failed = store.change(
        row["id"], status="failed", error=reason, completed_at=store.now, worker_id=None, blocked=False,
        expires_at=None,
    )  # fmt: skip
    tell_ended(store, [failed])
    return [row["id"]]


# Claims -------------------------------------------------------------------------------------------


@answers(st.settled_claims)
def settled_claims(store: Store, limit: int) -> int:
    before = store.now - timedelta(minutes=1)
    over = [
        number
        for number, claim in sorted(store.tables.claims.items())
        if claim.at < before and not running(store, number, claim.job_ids)
    ]
    return sum(store.tables.claims.drop(number) for number in over[:limit])


# Leftovers ----------------------------------------------------------------------------------------


@answers(st.past)
def past(store: Store, expires_at: str, id_: str, limit: int) -> list[Past]:
    after = (EARLIEST if expires_at == LONG_AGO else datetime.fromisoformat(expires_at), uuid(id_))
    found = [
        row for row in store.expiring() if row["expires_at"] < store.now and (row["expires_at"], row["id"]) > after
    ]
    return [Past(row["id"], row["expires_at"].isoformat(" "), row["status"] not in UNSTARTED) for row in found[:limit]]


@answers(st.waiting)
def waiting(store: Store, after: str, limit: int) -> list[tuple[str, bool]]:
    first = uuid(after)
    found = [row["id"] for row in store.lane("waiting") if row["id"] > first]
    return [(id_, _is_stranded(store, id_)) for id_ in found[:limit]]


def _is_stranded(store: Store, id_: str) -> bool:
    left = [(store.jobs.get(parent), edge) for parent, edge in store.tables.edges.of(id_).items() if not edge.satisfied]
    parents = [(row["status"], edge) for row, edge in left if row is not None]
    hopeless = any(status in UNSUCCESSFUL and not edge.allow_failure for status, edge in parents)
    return hopeless or all(status in TERMINAL for status, _ in parents)


@answers(st.forget_workers)
def forget_workers(store: Store, older_than: float) -> int:
    before, held = store.before(older_than), busy(store)
    gone = [
        id_
        for id_, row in store.tables.workers.items()
        if row["status"] != "active"
        and row["expires_at"] is not None
        and row["expires_at"] < before
        and id_ not in held
    ]
    return sum(store.tables.workers.drop(id_) for id_ in gone)
