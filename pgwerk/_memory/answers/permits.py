"""Permits of groups."""

from collections.abc import Iterator, Sequence

from pgwerk._core.statements import permits as st
from pgwerk._core.statuses import RUNNING
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.telling import tell_queued
from pgwerk._memory.rows import Row
from pgwerk._memory.store import Store
from pgwerk._memory.values import uuid


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


@answers(st.leaked_permits)
def leaked_permits(store: Store, limit: int) -> list[str]:
    leaked = list(_leaked(store))[:limit]
    for key, slot in leaked:
        store.tables.permits.drop(key, slot)
    return [key for key, _ in leaked]


def _leaked(store: Store) -> Iterator[tuple[str, int]]:
    for key, slot, job in store.tables.permits.holders():
        row = store.jobs.get(job)
        if row is None or row["status"] not in RUNNING:
            yield key, slot


@answers(st.blocked_groups)
def blocked_groups(store: Store, after: str, limit: int) -> list[str]:
    return [group for group in store.blocked_groups() if group > after][:limit]
