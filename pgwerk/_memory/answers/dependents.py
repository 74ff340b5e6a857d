"""Jobs that wait for others."""

from collections.abc import Sequence
from datetime import datetime

from pgwerk._core.statements import dependents as st
from pgwerk._core.statements.dependents import DependencyCheck
from pgwerk._core.statuses import UNSUCCESSFUL
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.telling import tell_due, tell_queued
from pgwerk._memory.rows import Row
from pgwerk._memory.store import Store
from pgwerk._memory.values import later, uuid


@answers(st.lock_waiting)
def lock_waiting(store: Store, ids: Sequence[str]) -> list[str]:
    return [row["id"] for row in store.existing(ids) if row["status"] == "waiting"]


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
