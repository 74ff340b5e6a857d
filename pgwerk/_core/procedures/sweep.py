"""The sweep: whatever could be left behind by a crash, a race or a lost notification is found and mended here."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pgwerk._core.operation import Procedure, ask
from pgwerk._core.operations import manage
from pgwerk._core.operations.recover import (
    recover_lost,
    recover_overdue,
    recover_unclaimed,
    recover_worker,
)
from pgwerk._core.operations.settle import release_waiting
from pgwerk._core.statements import settling, upkeep

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


def recover(live: float) -> Procedure[Swept]:
    """Recover the jobs of dead workers, and those that ran past their own deadlines."""
    swept = Swept()
    while True:
        lost = yield from ask(recover_lost(live))
        swept.recovered += lost.jobs
        swept.lost_workers += lost.workers
        if not lost.jobs:
            break
    if lost.overdue:
        swept.recovered += yield from ask(recover_overdue())
    yield from _look_again(swept.recovered)
    return swept


def recover_dead(worker: str, reason: str) -> Procedure[list[str]]:
    """Recover the jobs of one worker that is known to be dead."""
    recovered = yield from ask(recover_worker(worker, reason))
    yield from _look_again(recovered.jobs)
    return recovered.jobs


def _look_again(ids: Sequence[str]) -> Procedure[None]:
    """Offer what these jobs held once more: who was denied it while it was given back could not be seen then."""
    for start in range(0, len(ids), BATCH):
        yield from offer((yield from ask(settling.groups_of(ids[start : start + BATCH]))))


def offer(keys: Sequence[str]) -> Procedure[int]:
    """Offer the free permits of these groups; how many members may compete for them."""
    return (yield from ask(settling.ready(keys))) if keys else 0


def promote_due() -> Procedure[upkeep.Promoted]:
    """Queue all scheduled jobs that are due."""
    total = 0
    while True:
        promoted = yield from ask(upkeep.promote(BATCH * 2))
        total += promoted.moved
        if promoted.moved < BATCH * 2:
            return upkeep.Promoted(total, promoted.next_due)


def sweep(live: float, stuck: float | None) -> Procedure[Swept]:
    """Do all there is to do. Any number of processes may sweep at once.

    *stuck*: also look for active rows that no worker claimed since so many seconds. It reads every runnable job, so
    that workers do it rarely.
    """
    swept = yield from recover(live)
    if stuck is not None:
        swept.recovered += yield from ask(recover_unclaimed(stuck))
    promoted = yield from promote_due()
    swept.promoted, swept.next_due = promoted.moved, promoted.next_due
    swept.expired, swept.deleted = yield from _end_time()
    swept.released = yield from _release_stranded()
    swept.readied = yield from _offer_permits()
    while (yield from ask(upkeep.settled_claims(BATCH))) == BATCH:
        pass
    _ = yield from ask(upkeep.forget_workers(KEEP_WORKERS))
    return swept


def _end_time() -> Procedure[tuple[int, int]]:
    """End what was not started in time, delete what was kept long enough; how many of each."""
    expired, deleted, place = 0, 0, (upkeep.LONG_AGO, NO_ID)
    while found := (yield from ask(upkeep.past(*place, BATCH))):
        if late := [one.id for one in found if not one.started]:
            expired += yield from ask(manage.expire(late))
        if ended := [one.id for one in found if one.started]:
            deleted += yield from ask(manage.delete_outlived(ended))
        place = (found[-1].expires_at, found[-1].id)
    return expired, deleted


def _release_stranded() -> Procedure[int]:
    total, after = 0, NO_ID
    while found := (yield from ask(upkeep.waiting(after, BATCH))):
        if stranded := [id_ for id_, free in found if free]:
            total += yield from ask(release_waiting(stranded))
        after = found[-1][0]
    return total


def _offer_permits() -> Procedure[int]:
    total, after = 0, ""
    while freed := (yield from ask(upkeep.leaked_permits(BATCH))):
        total += yield from offer(sorted(set(freed)))
    while keys := (yield from ask(upkeep.blocked_groups(after, BATCH))):
        total += yield from offer(keys)
        after = keys[-1]
    return total
