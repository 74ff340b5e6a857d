"""Running jobs, each fenced by the claim."""

from collections.abc import Sequence
from typing import Any

from pgwerk._core.lifecycle import Mark, Verdict
from pgwerk._core.outcome import Report
from pgwerk._core.statements import running as st
from pgwerk._core.statuses import RUNNING
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.telling import tell_ended, tell_queued
from pgwerk._memory.jsonb import jsonb
from pgwerk._memory.rows import Row
from pgwerk._memory.store import Store
from pgwerk._memory.tables import StoredExecution
from pgwerk._memory.values import text, uuid

_MOST = 2**31 - 1
"""The largest of an integer column."""


@answers(st.close)
def close(store: Store, entries: Sequence[tuple[Report, Verdict]], worker: str | None, *, whole: bool) -> list[str]:
    closed: list[tuple[Row, Verdict]] = []
    by = uuid(worker) if worker is not None else None
    for report, verdict in entries:
        row = store.find(report.job_id)
        if row is None or row["claim_id"] != report.claim or not _may_close(store, row, verdict, whole=whole):
            continue
        closed.append((_close(store, row, report, verdict, by), verdict))
    tell_ended(store, (row for row, verdict in closed if verdict.delay is None))
    tell_queued(store, (row for row, verdict in closed if verdict.delay == 0))
    return [row["id"] for row, _ in closed]


def _may_close(store: Store, row: Row, verdict: Verdict, *, whole: bool) -> bool:
    if row["status"] != "active" and not (whole and row["status"] == "aborting"):
        return False
    return whole or verdict.delay is not None or not store.tables.edges.dependents(row["id"])


def _close(store: Store, row: Row, report: Report, verdict: Verdict, worker: str | None) -> Row:
    over = verdict.delay is None
    began, ended = store.before(report.began), store.before(report.ended)
    if verdict.execution is not None:
        _record(
            store,
            row["id"],
            attempt=row["attempts"],
            status=verdict.execution.value,
            worker_id=worker,
            started_at=began,
            completed_at=ended,
            error=verdict.error if verdict.error is None else text(verdict.error),
            result=verdict.result if verdict.result is None else jsonb(verdict.result),
        )
    return store.change(
        row["id"],
        status=verdict.status.value,
        result=verdict.result,
        **_marks(row, verdict),
        attempts=row["attempts"] - verdict.uncount,
        worker_id=None,
        progress=row["progress"] if over else None,
        started_at=began if over else None,
        completed_at=ended if over else None,
        scheduled_at=store.after(verdict.delay) if verdict.delay else row["scheduled_at"],
        expires_at=store.after(verdict.keep) if over else _ttl_goes_on(store, row, verdict),
    )


def _marks(row: Row, verdict: Verdict) -> Row:
    """What is noted; a job that is given back keeps the error of its last attempt; a loss is one more reason."""
    lost = verdict.mark is Mark.LOST or verdict.mark is Mark.DOUBT
    columns: Row = {"error": row["error"] if verdict.uncount and not lost else verdict.error}
    if lost:
        columns["watched"] = row["watched"] or 0
    if verdict.mark is Mark.LOST:
        columns["lost"] = min(row["lost"] or 0, _MOST - 1) + 1
    if verdict.mark is Mark.INTERRUPTED:
        columns["interrupted"] = min(row["interrupted"] or 0, _MOST - 1) + 1
    return columns


def _ttl_goes_on(store: Store, row: Row, verdict: Verdict) -> Any:
    """When a job expires that was given back before its first start."""
    begun = (row["lost"], row["interrupted"], row["watched"]) != (None, None, None)
    if not verdict.uncount or verdict.execution is not None or row["attempts"] != 1 or begun:
        return None
    return store.after(row["ttl"], max(row["scheduled_at"], row["enqueued_at"]))


def _record(store: Store, job_id: str, **columns: Any) -> None:
    before = store.tables.executions.get(job_id, ())
    store.tables.executions.put(job_id, (*before, StoredExecution(number=store.next_number(), **columns)))


@answers(st.retire)
def retire(store: Store, claims: Sequence[int]) -> None:
    for number in claims:
        _ = store.tables.claims.drop(number)


@answers(st.stray)
def stray(store: Store, worker: str, known: Sequence[int]) -> list[tuple[str, int]]:
    mine, seen = uuid(worker), set(known)
    return [
        (row["id"], number)
        for number, claim in sorted(store.tables.claims.items())
        if claim.worker == mine and number not in seen
        for row in running(store, number, claim.job_ids)
    ]


def running(store: Store, number: int, ids: Sequence[str]) -> list[Row]:
    """The jobs that run under a claim."""
    return [row for row in store.existing(ids) if row["claim_id"] == number and row["status"] in RUNNING]


def _fenced(store: Store, jobs: Sequence[tuple[str, int]], statuses: Sequence[str] = RUNNING) -> list[Row]:
    """Those of these jobs (id, claim) that run under that claim."""
    rows = {row["id"]: row for id_, number in jobs for row in running(store, number, [id_])}
    return [row for row in rows.values() if row["status"] in statuses]


@answers(st.locked)
def locked(store: Store, ids: Sequence[str]) -> list[str]:  # noqa: ARG001
    return []  # nobody else is in a transaction


@answers(st.return_unread)
def return_unread(store: Store, jobs: Sequence[tuple[str, int]]) -> None:
    for row in _fenced(store, jobs, ["active"]):
        attempts = max(row["attempts"] - 1, 0)
        _ = store.change(row["id"], status="queued", attempts=attempts, worker_id=None, started_at=None)


@answers(st.fail_unread)
def fail_unread(store: Store, jobs: Sequence[tuple[str, int]], reason: str) -> None:
    for row in _fenced(store, jobs):
        _record(
            store, row["id"], attempt=row["attempts"], status="failed", worker_id=None, started_at=None,
            completed_at=store.now, error=text(reason), result=None,
        )  # fmt: skip
        changed = store.change(
            row["id"], status="failed", error=reason, worker_id=None, completed_at=store.now, expires_at=None
        )
        tell_ended(store, [changed])


@answers(st.restart_clocks)
def restart_clocks(store: Store, jobs: Sequence[tuple[str, int]]) -> None:
    for row in _fenced(store, jobs):
        _ = store.change(row["id"], started_at=store.now)


@answers(st.aborting)
def aborting(store: Store, ids: Sequence[str]) -> list[str]:
    return [row["id"] for row in store.existing(ids) if row["status"] == "aborting"]


@answers(st.touch)
def touch(store: Store, jobs: Sequence[tuple[str, int]]) -> list[str]:
    return [store.change(row["id"], touched_at=store.now)["id"] for row in _fenced(store, jobs)]


@answers(st.begin)
def begin(store: Store, jobs: Sequence[tuple[str, int]]) -> list[str]:
    return [
        store.change(row["id"], watched=row["claim_id"], started_at=store.now, touched_at=store.now)["id"]
        for row in _fenced(store, jobs, ["active"])
    ]


@answers(st.progress)
def progress(store: Store, job_id: str, claim_id: int, value: str) -> list[str]:
    stored = jsonb(value)
    return [
        store.change(row["id"], progress=stored, touched_at=store.now)["id"]
        for row in _fenced(store, [(job_id, claim_id)])
    ]
