"""Enqueueing: a job, its dependencies and the news of it, all or nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pgwerk._core.claim import Claimed
from pgwerk._core.operation import Steps, operation, together
from pgwerk._core.operations.settle import release
from pgwerk._core.statements import claims, deletions
from pgwerk._core.statements import enqueue as st
from pgwerk._core.statements.enqueue import Inserted, Values
from pgwerk.errors import EnqueueError

CHUNK = 5000
"""Rows of one COPY or INSERT."""


@dataclass(slots=True)
class NewJob:
    """A job to insert and what it depends on: (id, whether that one may fail)."""

    values: Values
    depends_on: tuple[tuple[str, bool], ...] = field(default=())
    payload: dict[str, Any] | None = None
    """The arguments before they were encoded."""

    @property
    def id(self) -> str:
        """The id that the client made."""
        id_: str = self.values["id"]
        return id_


@operation(atomic=False, repeatable=True)
def enqueue(new_job: NewJob, *, always_tell: bool) -> Steps[Inserted | None]:
    """Insert a job without dependencies: one statement, one commit. None: its key exists."""
    inserted = yield from st.insert(new_job.values, always_tell=always_tell)
    if inserted:
        return inserted[0]
    # A walk that is repeated after a lost connection finds its own row.
    mine = yield from st.inserted_before(new_job.id)
    return mine[0] if mine else None


@operation(repeatable=True)
def enqueue_many(new_jobs: Sequence[NewJob], *, always_tell: bool) -> Steps[tuple[dict[str, Inserted], list[str]]]:
    """Insert jobs with what they depend on. The inserted ones by id, and the ids of those to look at once more.

    Raises EnqueueError for an unknown dependency, which leaves nothing behind.
    """
    yield from _check_dependencies(new_jobs)
    inserted: dict[str, Inserted] = {}
    for start in range(0, len(new_jobs), CHUNK):
        chunk = [new_job.values for new_job in new_jobs[start : start + CHUNK]]
        for row in (yield from st.insert_many(chunk, always_tell=always_tell)):
            inserted[row.id] = row
    fresh = set(inserted)
    if len(inserted) < len(new_jobs):
        missing = [new_job.id for new_job in new_jobs if new_job.id not in inserted]
        # Their keys exist; or this is walked again after a lost connection, and they are our own rows.
        for row in (yield from st.inserted_before(*missing)):
            inserted[row.id] = row
    edges = [
        (new_job.id, parent, allow)
        for new_job in new_jobs
        for parent, allow in new_job.depends_on
        if new_job.id in inserted
    ]
    if not edges:
        return inserted, []
    yield from st.link(edges)
    # What depends on nothing but jobs of this very transaction has to wait, and whoever ends those sees it.
    waiting = sorted({job for job, parent, _ in edges if parent not in fresh})
    if waiting:
        # What is finished already counts at once; what finishes from here on is seen by `release_late`, by whoever
        # finishes it, or by the worker that hears of this commit.
        _ = yield from release(waiting)
        yield from st.tell_waiting(waiting)
        for row in (yield from st.inserted_before(*waiting)):
            inserted[row.id] = row
    return inserted, [id_ for id_ in waiting if inserted[id_].status == "waiting"]


def _check_dependencies(new_jobs: Sequence[NewJob]) -> Steps[None]:
    wanted = {parent for new_job in new_jobs for parent, _ in new_job.depends_on}
    if not wanted:
        return
    wanted -= {new_job.id for new_job in new_jobs}
    if not wanted:
        return
    # In this order: what is there once it is held stays there.
    one_snapshot, existing = yield from together(deletions.hold(sorted(wanted)), st.existing(sorted(wanted)))
    if one_snapshot and existing:
        # It may be older than the lock: a dependent of a job that completed and went before would fail.
        _ = yield from together(
            deletions.set_savepoint(),
            deletions.lock_present(existing),
            deletions.undo_to_savepoint(),
            deletions.release_savepoint(),
        )
    unknown = sorted(wanted - set(existing))
    if unknown:
        raise EnqueueError(
            f"_depends_on names a job that does not exist: {', '.join(unknown)}. "
            "Enqueue that job first (in the same transaction, if it is enqueued in one); nothing was enqueued."
        )


@operation(atomic=False, repeatable=True)
def look_again(ids: Sequence[str]) -> Steps[list[Inserted]]:
    """Read what became of jobs that had to wait."""
    return (yield from st.inserted_before(*ids))


@operation()
def begin_inline(new_job: NewJob, worker: str) -> Steps[Claimed | None]:
    """Insert a job and claim it at once, before any worker can see it. None: its key exists."""
    inserted = yield from st.insert(new_job.values, always_tell=False)
    if not inserted:
        return None
    return (yield from claims.claim_one(new_job.id, worker))
