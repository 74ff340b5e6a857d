"""Enqueueing from the outside: the insert, and a second look at dependencies after its commit."""

from collections.abc import Sequence

from pgwerk._core.operation import Procedure, ask
from pgwerk._core.operations import enqueue as op
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.operations.settle import release_waiting
from pgwerk._core.statements.enqueue import Inserted
from pgwerk.errors import WerkError


def enqueue_all(new_jobs: Sequence[NewJob], *, joined: bool) -> Procedure[list[Inserted | None]]:
    """Insert jobs, in order; None where the key exists. *joined*: inside a transaction of the caller's."""
    if len(new_jobs) == 1 and not new_jobs[0].depends_on:
        return [(yield from ask(op.enqueue(new_jobs[0], always_tell=joined)))]
    inserted, waiting = yield from ask(op.enqueue_many(new_jobs, always_tell=joined))
    if waiting and not joined:
        try:
            # A dependency that ended while we inserted could not see us, nor we it: now one of us does.
            moved = yield from ask(release_waiting(waiting))
            if moved:
                for row in (yield from ask(op.look_again(waiting))):
                    inserted[row.id] = row
        except WerkError:
            # The jobs are there. Whoever was told that they are not would enqueue them again; and a worker that heard
            # of the commit, or the sweep, releases them too.
            pass
    return [inserted.get(new_job.id) for new_job in new_jobs]
