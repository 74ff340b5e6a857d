"""There are no tables to create: they are always those of this version."""

from pgwerk._core.schema import migrations
from pgwerk._core.statements import deletions
from pgwerk._core.statements import schema as st
from pgwerk._memory.answering import answers
from pgwerk._memory.store import Store

POSTGRES_ONLY = {
    st.create_schema: "there always is one",
    st.script: "it is SQL, and no migration is ever missing",
    st.record: "no migration is ever missing",
    st.drop_all: "a store without tables could not be asked any more; truncate_all empties it",
    deletions.set_savepoint: "nobody else is in a transaction, see hold",
    deletions.lock_present: "nobody else is in a transaction, see hold",
    deletions.undo_to_savepoint: "nobody else is in a transaction, see hold",
    deletions.release_savepoint: "nobody else is in a transaction, see hold",
}
"""Statements that are never asked here, and why."""


@answers(st.without_limits)
def without_limits(_store: Store) -> None:
    pass  # there are none


@answers(st.server_version)
def server_version(_store: Store) -> str:
    return "memory"


@answers(st.lock_migrations)
def lock_migrations(_store: Store) -> None:
    pass  # nobody else is in a transaction


@answers(st.schema_exists)
def schema_exists(_store: Store) -> bool:
    return True


@answers(st.versions_exist)
def versions_exist(_store: Store) -> bool:
    return True


@answers(st.applied)
def applied(_store: Store) -> list[int]:
    return [migration.version for migration in migrations()]


@answers(st.truncate_all)
def truncate_all(store: Store) -> None:
    store.clear()
