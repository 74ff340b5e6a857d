"""The same for many jobs, in batches that are transactions of their own."""

from collections.abc import Sequence

from pgwerk._core.operation import Procedure, ask
from pgwerk._core.operations import manage
from pgwerk._core.operations.settle import end_unstarted
from pgwerk._core.outcome import Aborted
from pgwerk._core.procedures.sweep import BATCH, NO_ID
from pgwerk._core.statements import admin


def requeue_all(queue: str | None, function: str | None) -> Procedure[int]:
    """Queue failed and aborted jobs again; how many."""
    total = 0
    while ids := (yield from ask(manage.requeue_some(queue, function, BATCH))):
        total += len(ids)
    return total


def cancel_all(queue: str | None) -> Procedure[int]:
    """Cancel jobs that have not started; how many."""
    total = 0
    while ids := (yield from ask(admin.cancellable(queue, BATCH))):
        ended = yield from ask(end_unstarted(ids, Aborted("aborted: cancelled")))
        total += len(ended)
        if not ended:
            break
    return total


def purge(statuses: Sequence[str], older_than: float) -> Procedure[int]:
    """Delete ended jobs that ended more than *older_than* seconds ago; how many."""
    total, after = 0, NO_ID
    while ids := (yield from ask(admin.purgeable(statuses, older_than, after, BATCH))):
        gone = yield from ask(manage.delete(ids))
        total += len(gone)
        after = ids[-1]
    return total
