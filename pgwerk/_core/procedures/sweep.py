"""The sweep: whatever could be left behind by a crash, a race or a lost notification is found and mended here."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from pgwerk._core.lifecycle import MAX_LOST
from pgwerk._core.operation import Operation, Procedure, R, ask
from pgwerk._core.operations.recover import (
    Begun,
    recover_lost,
    recover_overdue,
    recover_unclaimed,
    recover_worker,
)
from pgwerk._core.operations.settle import end_unstarted, release_waiting
from pgwerk._core.outcome import Expired
from pgwerk._core.statements import settling, upkeep
from pgwerk.errors import DatabaseError

BATCH = 500
NO_ID = "00000000-0000-0000-0000-000000000000"
KEEP_WORKERS = 86400.0
"""Seconds that the row of a stopped or lost worker is kept."""


@dataclass
class Swept:
    """What a sweep found."""

    recovered: list[str] = field(default_factory=list)
    """Ids of active jobs that nobody ran any more."""
    lost_workers: list[str] = field(default_factory=list)
    promoted: int = 0
    expired: int = 0
    released: int = 0
    readied: int = 0
    deleted: int = 0
    next_due: float | None = None


def recover(live: float, max_lost: int = MAX_LOST, *, seen: float | None = math.inf) -> Procedure[Swept]:
    """Recover the jobs of dead workers, and those that ran past their own deadlines.

    *seen*: see `recover_lost`.
    """
    swept = Swept()
    while True:
        lost = yield from _unless_locked(lambda pass_over: recover_lost(live, max_lost, seen=seen, pass_over=pass_over))
        swept.recovered += lost.jobs
        swept.lost_workers += lost.workers
        if not lost.jobs:
            break
    if lost.overdue:
        swept.recovered += yield from _unless_locked(lambda pass_over: recover_overdue(seen=seen, pass_over=pass_over))
    return swept


def _unless_locked(make: Callable[[bool], Operation[R]]) -> Procedure[R]:
    """Run an operation; when it has to wait for a lock for too long, run it without what is locked."""
    try:
        return (yield from ask(make(False)))
    except DatabaseError as error:
        if error.sqlstate != "55P03":
            raise
    return (yield from ask(make(True)))


def recover_dead(
    worker: str, reason: str, begun: Begun | None = None, max_lost: int = MAX_LOST
) -> Procedure[list[str]]:
    """Recover the jobs of one worker that is known to be dead. *begun*: None when nobody knows."""
    recovered = yield from ask(recover_worker(worker, reason, begun, max_lost))
    return recovered.jobs


def promote_due() -> Procedure[upkeep.Promoted]:
    """Queue all scheduled jobs that are due."""
    total = 0
    while True:
        promoted = yield from ask(upkeep.promote(BATCH * 2))
        total += promoted.moved
        if promoted.moved < BATCH * 2:
            return upkeep.Promoted(total, promoted.next_due)


def sweep(
    live: float, stuck: float | None, max_lost: int = MAX_LOST, *, seen: float | None = math.inf
) -> Procedure[Swept]:
    """Do all there is to do. Any number of processes may sweep at once.

    *stuck*: also look for active rows that no worker claimed, at the latest after so many seconds. It reads every
    runnable job, so that workers do it rarely. *seen*: see `recover_lost`.
    """
    swept = yield from recover(live, max_lost, seen=seen)
    if stuck is not None:
        swept.recovered += yield from ask(recover_unclaimed(stuck))
    promoted = yield from promote_due()
    swept.promoted, swept.next_due = promoted.moved, promoted.next_due
    swept.expired = yield from _expire()
    swept.released = yield from _release_stranded()
    freed = yield from ask(upkeep.leaked_permits())
    groups = yield from ask(upkeep.blocked_groups())
    if keys := sorted({*freed, *groups}):
        swept.readied = yield from ask(settling.ready(keys))
    swept.deleted = yield from _delete_outlived()
    _ = yield from ask(upkeep.settled_claims())
    _ = yield from ask(upkeep.forget_workers(KEEP_WORKERS))
    return swept


def _expire() -> Procedure[int]:
    total = 0
    while ids := (yield from ask(upkeep.expired(BATCH))):
        ended = yield from ask(end_unstarted(ids, Expired()))
        total += len(ended)
        if not ended:
            break
    return total


def _release_stranded() -> Procedure[int]:
    total, after = 0, NO_ID
    while ids := (yield from ask(upkeep.stranded(after, BATCH))):
        total += yield from ask(release_waiting(ids))
        after = ids[-1]
    return total


def _delete_outlived() -> Procedure[int]:
    total = 0
    while ids := (yield from ask(upkeep.outlived(BATCH))):
        gone = yield from ask(settling.delete(sorted(ids)))
        total += len(gone)
        if not gone:
            break
    return total
