"""Bulk requeue, cancel and purge; each batch is its own transaction.

Each goes once through the ids, so that it ends however many jobs come and fail meanwhile, and acts on none twice.
"""

from collections.abc import Sequence

from pgwerk._core.operation import Procedure, ask
from pgwerk._core.operations import manage
from pgwerk._core.operations.settle import end_unstarted
from pgwerk._core.outcome import Aborted
from pgwerk._core.procedures.sweep import BATCH, NO_ID
from pgwerk._core.statements import admin

LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


def requeue_all(queue: str | None, function: str | None) -> Procedure[int]:
    """Queue the jobs again that are failed or aborted now; how many."""
    until = yield from ask(admin.database_time())
    total, after = 0, NO_ID
    while ids := (yield from ask(manage.requeue_some(queue, function, until, after, BATCH))):
        total += len(ids)
        after = ids[-1]
    return total


def cancel_all(queue: str | None) -> Procedure[int]:
    """Cancel jobs that have not started; how many.

    The youngest first: what depends on others is cancelled before these, rather than failed by their end.
    """
    total, before = 0, LAST_ID
    # One more is found than is ended: that one begins the next batch.
    while ids := (yield from ask(admin.cancellable(queue, before, BATCH + 1))):
        ended = yield from ask(end_unstarted(ids[:BATCH], Aborted("aborted: cancelled")))
        total += len(ended)
        if len(ids) <= BATCH:
            break
        before = ids[BATCH]
    return total


def purge(statuses: Sequence[str], older_than: float) -> Procedure[int]:
    """Delete ended jobs that ended more than *older_than* seconds ago; how many."""
    total, after = 0, NO_ID
    while True:
        gone, last = yield from ask(manage.purge_some(statuses, older_than, after, BATCH))
        total += gone
        if last is None:
            return total
        after = last
