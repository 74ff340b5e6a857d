"""What follows from an end, in one transaction with it."""

from collections.abc import Sequence
from datetime import datetime

from pgwerk._app.clock import new_id
from pgwerk._core.job import Job
from pgwerk._core.lifecycle import Verdict
from pgwerk._core.statements import settling as st
from pgwerk._core.statements.settling import COPIED, DependencyCheck
from pgwerk._core.statuses import TERMINAL, UNSTARTED, UNSUCCESSFUL
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.running import running
from pgwerk._memory.answers.telling import tell_due, tell_ended, tell_queued
from pgwerk._memory.rows import Row, job_of
from pgwerk._memory.store import Store
from pgwerk._memory.values import later, text, uuid


@answers(st.lock_claimed)
def lock_claimed(store: Store, jobs: Sequence[tuple[str, int]]) -> list[Job]:
    rows = {row["id"]: row for id_, number in jobs for row in running(store, number, [id_])}
    return [job_of(rows[id_]) for id_ in sorted(rows)]


@answers(st.lock)
def lock(store: Store, ids: Sequence[str], statuses: Sequence[str]) -> list[Job]:
    return [job_of(row) for row in store.existing(ids) if row["status"] in statuses]


@answers(st.lock_waiting)
def lock_waiting(store: Store, ids: Sequence[str]) -> list[str]:
    return [row["id"] for row in store.existing(ids) if row["status"] == "waiting"]


@answers(st.lock_expired)
def lock_expired(store: Store, ids: Sequence[str]) -> list[Job]:
    return [job_of(row) for row in store.existing(ids) if row["status"] in UNSTARTED and _is_past(store, row)]


@answers(st.lock_outlived)
def lock_outlived(store: Store, ids: Sequence[str]) -> list[str]:
    return [
        row["id"]
        for row in store.existing(ids)
        if row["status"] in TERMINAL and _is_past(store, row) and _callbacks_ended(store, row)
    ]


def _is_past(store: Store, row: Row) -> bool:
    expires: datetime | None = row["expires_at"]
    return expires is not None and expires < store.now


def _callbacks_ended(store: Store, row: Row) -> bool:
    return all(callback["status"] in TERMINAL for callback in store.callbacks(row["id"]))


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


# Groups -------------------------------------------------------------------------------------------


@answers(st.release_permits)
def release_permits(store: Store, jobs: Sequence[tuple[str, str]]) -> list[str]:
    return [key for key, id_ in jobs for _ in range(store.tables.permits.release(key, uuid(id_)))]


@answers(st.ready)
def ready(store: Store, keys: Sequence[str]) -> int:
    readied: list[Row] = []
    for key in sorted(set(keys)):
        usable = [row for row in store.blocked(key) if _is_usable(store, row)]
        if usable:
            free = (usable[0]["group_limit"] or 1) - len(store.tables.permits.taken(key))
            readied += [store.change(row["id"], blocked=False) for row in usable[: max(free, 0)]]
    tell_queued(store, readied)
    return len(readied)


def _is_usable(store: Store, row: Row) -> bool:
    return row["status"] == "queued" and store.may_run(row) and not store.is_paused(row["queue"])


@answers(st.groups_of)
def groups_of(store: Store, ids: Sequence[str]) -> list[str]:
    return sorted({row["group_key"] for row in store.existing(ids) if row["group_key"] is not None})


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


# Dependents ---------------------------------------------------------------------------------------


def _dependents(store: Store, parents: Sequence[str]) -> list[str]:
    return sorted({job for parent in parents for job in store.tables.edges.dependents(uuid(parent))})


@answers(st.late_dependents)
def late_dependents(store: Store, parents: Sequence[str]) -> list[str]:
    return _dependents(store, parents)


@answers(st.lock_dependents)
def lock_dependents(store: Store, parents: Sequence[str]) -> list[str]:
    return lock_waiting(store, _dependents(store, parents))


@answers(st.doomed)
def doomed(store: Store, parents: Sequence[str]) -> list[tuple[str, str]]:
    failed_parents: dict[str, str] = {}
    looked_at: set[str] = set()
    todo = [uuid(parent) for parent in parents]
    while todo:
        parent = todo.pop()
        if parent in looked_at:
            continue
        looked_at.add(parent)
        for id_ in store.tables.edges.dependents(parent):
            row = store.jobs.get(id_)
            if row is None or row["status"] != "waiting" or store.tables.edges.of(id_)[parent].allow_failure:
                continue
            failed_parents[id_] = min(failed_parents.get(id_, parent), parent)
            todo.append(id_)
    return sorted(failed_parents.items())


@answers(st.check_dependencies)
def check_dependencies(store: Store, ids: Sequence[str]) -> DependencyCheck:
    released: list[Row] = []
    failed_dependents: list[tuple[str, str]] = []
    now = store.instant()
    for id_ in sorted(set(map(uuid, ids))):
        open_, failed_parent = _check_dependencies(store, id_)
        row = store.jobs.get(id_)
        if failed_parent is not None:
            failed_dependents.append((id_, failed_parent))
        elif not open_ and row is not None and row["status"] == "waiting":
            released.append(_release(store, row, now))
    tell_queued(store, (row for row in released if row["status"] == "queued"), always=True)
    due = [row["scheduled_at"] for row in released if row["status"] == "scheduled"]
    if due:
        tell_due(store, min(due), now)
    return DependencyCheck([row["id"] for row in released], failed_dependents)


def _check_dependencies(store: Store, id_: str) -> tuple[bool, str | None]:
    """Whether a job still has to wait, and which of its dependencies will never be met."""
    open_, failed_parents = False, []
    for parent, edge in list(store.tables.edges.of(id_).items()):
        if edge.satisfied:
            continue
        row = store.jobs.get(parent)
        hopeless = row is None or row["status"] in UNSUCCESSFUL
        if (row is not None and row["status"] == "complete") or (edge.allow_failure and hopeless):
            store.tables.edges.put(id_, parent, edge._replace(satisfied=True))
        elif hopeless:
            failed_parents.append(parent)
        else:
            open_ = True
    return open_, min(failed_parents, default=None)


def _release(store: Store, row: Row, now: datetime) -> Row:
    due = max(row["scheduled_at"], now) if row["wait_delay"] is None else later(now, row["wait_delay"])
    return store.change(
        row["id"], status="scheduled" if due > now else "queued", scheduled_at=due,
        expires_at=store.after(row["ttl"], due),
    )  # fmt: skip


# Rows that go -------------------------------------------------------------------------------------


@answers(st.hold)
def hold(store: Store, ids: Sequence[str]) -> bool:  # noqa: ARG001
    return False  # nobody else is in a transaction


@answers(st.unheld)
def unheld(store: Store, ids: Sequence[str]) -> list[str]:  # noqa: ARG001
    return sorted(map(text, ids))  # see hold


@answers(st.delete)
def delete(store: Store, ids: Sequence[str]) -> list[str]:
    known = sorted(set(map(uuid, ids)))
    gone = [row for id_ in known if (row := store.remove(id_)) is not None]
    for id_ in known:
        _ = store.tables.executions.drop(id_)
        store.tables.edges.drop(id_)
    tell_ended(store, gone)
    return [row["id"] for row in gone]


@answers(st.finished_callbacks)
def finished_callbacks(store: Store, callbacks: Sequence[str]) -> list[str]:
    about = {row["callback_of"] for row in store.existing(callbacks) if row["callback_of"] is not None}
    return [
        row["id"]
        for row in store.existing(about)
        if row["status"] == "failed" and row["failure_mode"] == "delete" and _callbacks_ended(store, row)
    ]
