"""Rows that go."""

from collections.abc import Sequence

from pgwerk._core.statements import deletions as st
from pgwerk._core.statuses import TERMINAL
from pgwerk._memory.answering import answers
from pgwerk._memory.answers.settling import is_past
from pgwerk._memory.answers.telling import tell_ended
from pgwerk._memory.rows import Row
from pgwerk._memory.store import Store
from pgwerk._memory.values import text, uuid


@answers(st.lock_outlived)
def lock_outlived(store: Store, ids: Sequence[str]) -> list[str]:
    return [
        row["id"]
        for row in store.existing(ids)
        if row["status"] in TERMINAL and is_past(store, row) and _callbacks_ended(store, row)
    ]


def _callbacks_ended(store: Store, row: Row) -> bool:
    return all(callback["status"] in TERMINAL for callback in store.callbacks(row["id"]))


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
