"""Reading jobs, executions and counts."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from pgwerk._core.job import ExecutionStatus, Job, JobExecution
from pgwerk._core.notifications import PROBE
from pgwerk._core.statements import queries as st
from pgwerk._core.statements.columns import Decode
from pgwerk._core.statements.queries import End, Filter, QueueStats
from pgwerk._core.statuses import RUNNING, TERMINAL
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.telling import tell_queued
from pgwerk._memory.messages import DONE
from pgwerk._memory.rows import Row, job_of
from pgwerk._memory.store import Store
from pgwerk._memory.values import text, uuid


@answers(st.get)
def get(store: Store, job_id: str, decode: Decode) -> Job | None:
    row = store.find(job_id)
    return job_of(row, decode) if row is not None else None


@answers(st.get_by_key)
def get_by_key(store: Store, key: str, decode: Decode) -> Job | None:
    row = store.by_key(text(key))
    return job_of(row, decode) if row is not None else None


@answers(st.get_many)
def get_many(store: Store, ids: Sequence[str], decode: Decode) -> dict[str, Job]:
    return {row["id"]: job_of(row, decode) for row in store.existing(ids)}


@answers(st.list_jobs)
def list_jobs(store: Store, which: Filter, limit: int, offset: int, decode: Decode) -> list[Job]:
    worker = uuid(which.worker_id) if which.worker_id is not None else None
    before = uuid(which.before) if which.before is not None else None
    search = text(which.search).lower() if which.search else None
    fitting = [
        row
        for id_ in sorted(store.jobs, reverse=True)
        if (before is None or id_ < before)
        and _fits(row := store.jobs[id_], which)
        and (worker is None or row["worker_id"] == worker)
        and (search is None or _holds(row, search))
    ]
    return [job_of(row, decode) for row in fitting[offset : offset + limit]]


def _fits(row: Row, which: Filter) -> bool:
    return (
        (not which.queues or row["queue"] in which.queues)
        and (not which.statuses or row["status"] in which.statuses)
        and (not which.functions or row["function"] in which.functions)
        and (which.schedule_name is None or row["schedule_name"] == which.schedule_name)
        and (which.retried is None or which.retried == (row["attempts"] > 1))
    )


def _holds(row: Row, search: str) -> bool:
    places = (row["function"], row["queue"], row["key"], row["id"], row["meta"])
    return any(search in place.lower() for place in places if place is not None)


@answers(st.executions)
def executions(store: Store, job_id: str, decode: Decode) -> list[JobExecution]:
    id_ = uuid(job_id)
    found = [
        JobExecution(
            str(one.number), id_, one.attempt, ExecutionStatus(one.status), one.worker_id, one.started_at,
            one.completed_at, one.error, decode(one.result) if one.result is not None else None,
        )
        for one in store.tables.executions.get(id_, ())
    ]  # fmt: skip
    row = store.jobs.get(id_)
    if row is not None and row["status"] in RUNNING:
        found.append(
            JobExecution(
                f"running-{row['claim_id']}", id_, row["attempts"], ExecutionStatus.RUNNING, row["worker_id"],
                row["started_at"],
            )
        )  # fmt: skip
    return found


@answers(st.dependencies)
def dependencies(store: Store, job_id: str) -> list[str]:
    return sorted(store.tables.edges.of(uuid(job_id)))


@answers(st.mark_awaited)
def mark_awaited(store: Store, ids: Sequence[str]) -> None:
    marked = [
        store.change(row["id"], awaited=True)
        for row in store.existing(ids)
        if not row["awaited"] and row["status"] not in TERMINAL
    ]
    tell_queued(store, (row for row in marked if row["status"] == "queued"))


@answers(st.ends)
def ends(store: Store, ids: Sequence[str]) -> list[End]:
    return [End(row["id"], row["status"]) for row in store.existing(ids)]


@answers(st.queue_stats)
def queue_stats(store: Store) -> list[QueueStats]:
    by_queue: dict[str, list[Row]] = {name: [] for name in store.tables.queues}
    for row in store.jobs.values():
        by_queue.setdefault(row["queue"], []).append(row)
    return [_stats(store, name, by_queue[name]) for name in sorted(by_queue)]


def _stats(store: Store, name: str, rows: list[Row]) -> QueueStats:
    queued: list[datetime] = [row["scheduled_at"] for row in rows if row["status"] == "queued"]
    pause = store.tables.queues.get(name)
    return QueueStats(
        name,
        dict(Counter(row["status"] for row in rows)),
        (store.now - min(queued)).total_seconds() if queued else None,
        store.is_paused(name),
        pause.reason if pause is not None else None,
    )


@answers(st.tell_waiters)
def tell_waiters(store: Store) -> None:
    store.tell(DONE, PROBE)
