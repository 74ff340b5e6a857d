"""The sweep: whatever could be left behind by a crash, a race or a lost notification is found and mended here."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pgwerk._core.lifecycle import MAX_LOST
from pgwerk._core.operation import Operation, Procedure, R, ask
from pgwerk._core.operations import manage
from pgwerk._core.operations.recover import (
    Begun,
    lost_reports,
    recover_lost,
    recover_overdue,
    recover_unclaimed,
    recover_worker,
)
from pgwerk._core.operations.settle import Settled, release_waiting, settle
from pgwerk._core.outcome import Report
from pgwerk._core.procedures.isolate import Refused, each, give_up, is_locked, refuses_a_value
from pgwerk._core.statements import permits, recovery, upkeep, workers
from pgwerk.errors import WerkError

BATCH = 500
OFFERS = 2000
"""How many groups with blocked members are looked at between two sweeps."""
LOOK = 2000
"""How many rows a step reads that looks for something rare."""
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
    refused: Refused = field(default_factory=list)
    """Jobs that were failed, or left alone where that was impossible too, because Postgres refused to change them."""


def recover(live: float, max_lost: int = MAX_LOST, *, seen: float | None = math.inf) -> Procedure[Swept]:
    """Recover the jobs of dead workers, and those that ran past their own deadlines.

    *seen*: see `recover_lost`.
    """
    swept = Swept()
    while True:
        try:
            lost = yield from _unless_locked(
                lambda pass_over: recover_lost(live, max_lost, seen=seen, pass_over=pass_over)
            )
        except WerkError as error:
            if not refuses_a_value(error):
                raise
            if not (yield from _recover_each(live, max_lost, seen, swept)):
                return swept
            continue
        swept.recovered += lost.jobs
        swept.lost_workers += lost.workers
        if not lost.jobs:
            break
    if lost.overdue:
        yield from _recover_overdue(swept, seen)
    yield from _look_again(swept.recovered)
    swept.readied = yield from _offer_to_blocked(swept, OFFERS)
    return swept


def _unless_locked(make: Callable[[bool], Operation[R]]) -> Procedure[R]:
    """Run an operation; when it has to wait for a lock for too long, run it without what is locked."""
    try:
        return (yield from ask(make(False)))
    except WerkError as error:
        if not is_locked(error):
            raise
    return (yield from ask(make(True)))


def _recover_overdue(swept: Swept, seen: float | None) -> Procedure[None]:
    late = {one[0]: one for one in (yield from ask(recovery.overdue(BATCH, seen)))}

    def recover_these(ids: Sequence[str]) -> Operation[list[str]]:
        return recover_overdue([late[id_] for id_ in ids], seen=seen)

    refused: Refused = []
    for recovered in (yield from each(sorted(late), recover_these, refused)):
        swept.recovered += recovered
    swept.refused += refused
    _ = yield from give_up(refused)


def _recover_unclaimed(swept: Swept, stuck: float) -> Procedure[None]:
    after = recovery.FIRST_RUNNABLE
    while True:
        found, last = yield from ask(recovery.unclaimed(stuck, after, LOOK))
        late = {one[0]: one for one in found}

        def recover_these(ids: Sequence[str], late: Mapping[str, recovery.Late] = late) -> Operation[list[str]]:
            return recover_unclaimed([late[id_] for id_ in ids], stuck)

        refused: Refused = []
        for recovered in (yield from each(sorted(late), recover_these, refused)):
            swept.recovered += recovered
        swept.refused += refused
        _ = yield from give_up(refused)
        if last is None:
            return
        after = last


def _settle_each(
    reports: Sequence[Report], worker: str | None, swept: Swept, max_lost: int = MAX_LOST
) -> Procedure[Refused]:
    """Settle lost jobs of one claim, and give up those for which that is refused; those left over come back."""
    refused: Refused = []
    by_id = {report.job_id: report for report in reports}

    def settle_these(some: Sequence[str]) -> Operation[Settled]:
        return settle([by_id[id_] for id_ in some], worker, max_lost=max_lost)

    for verdicts in (yield from each(sorted(by_id), settle_these, refused)):
        swept.recovered += verdicts
    swept.refused += refused
    return (yield from give_up(refused))


def _recover_each(live: float, max_lost: int, seen: float | None, swept: Swept) -> Procedure[bool]:
    """Recover jobs of the dead one by one, and give up those that cannot be; False when there is none of either."""
    before = len(swept.recovered) + len(swept.refused)
    stuck: Refused = []
    # In a transaction of its own: who is dead was forgotten with the one that failed.
    swept.lost_workers += yield from ask(workers.mark_dead([], live, seen or 0.0))
    for claim in (yield from ask(workers.lost_claims(live, BATCH, seen))):
        reports = lost_reports(claim, "worker lost: it stopped sending heartbeats", None)
        stuck += yield from _settle_each(reports, claim.worker, swept, max_lost)
    return len(swept.recovered) + len(swept.refused) - len(stuck) > before


def recover_dead(
    worker: str, reason: str, begun: Begun | None = None, max_lost: int = MAX_LOST
) -> Procedure[list[str]]:
    """Recover the jobs of one worker that is known to be dead. *begun*: None when nobody knows.

    A job that Postgres refuses to change holds up none of the others; it stays for the sweep.
    """
    try:
        recovered = yield from _unless_locked(
            lambda pass_over: recover_worker(worker, reason, begun, max_lost, pass_over=pass_over)
        )
        jobs = recovered.jobs
    except WerkError as error:
        if not refuses_a_value(error):
            raise
        jobs = yield from _recover_each_of(worker, reason, begun, max_lost)
    yield from _look_again(jobs)
    return jobs


def _recover_each_of(worker: str, reason: str, begun: Begun | None, max_lost: int) -> Procedure[list[str]]:
    swept = Swept()
    _ = yield from ask(workers.mark_dead([worker]))
    for claim in (yield from ask(workers.claims_of(worker))):
        _ = yield from _settle_each(lost_reports(claim, f"worker lost: {reason}", begun), worker, swept, max_lost)
    try:
        # Whatever somebody had locked for an instant, and the claims, none of whose jobs is left.
        swept.recovered += (yield from ask(recover_worker(worker, reason, begun, max_lost, pass_over=True))).jobs
    except WerkError as error:
        if not refuses_a_value(error):
            raise
    return swept.recovered


def _look_again(ids: Sequence[str]) -> Procedure[None]:
    """Offer what these jobs held once more: who was denied it while it was given back could not be seen then."""
    for start in range(0, len(ids), BATCH):
        yield from offer((yield from ask(permits.groups_of(ids[start : start + BATCH]))))


def offer(keys: Sequence[str]) -> Procedure[int]:
    """Offer the free permits of these groups; how many members may compete for them."""
    return (yield from ask(permits.ready(keys))) if keys else 0


def promote_due() -> Procedure[upkeep.Promoted]:
    """Queue all scheduled jobs that are due."""
    total = 0
    while True:
        try:
            promoted = yield from ask(upkeep.promote(BATCH * 2))
        except WerkError as error:
            if not refuses_a_value(error):
                raise
            moved, progressed = yield from _promote_each()
            total += moved
            if not progressed:
                return upkeep.Promoted(total, None)
            continue
        total += promoted.moved
        if promoted.moved < BATCH * 2:
            return upkeep.Promoted(total, promoted.next_due)


def _promote_each() -> Procedure[tuple[int, bool]]:
    """Queue due jobs, and give up those that cannot be; how many were queued, and whether there is less to do now."""
    refused: Refused = []
    moved = yield from each((yield from ask(upkeep.due(BATCH * 2))), upkeep.promote_these, refused)
    stuck = yield from give_up([(id_, f"it could not be queued: {reason}") for id_, reason in refused])
    return sum(moved), sum(moved) > 0 or len(stuck) < len(refused)


def sweep(
    live: float, stuck: float | None, max_lost: int = MAX_LOST, *, seen: float | None = math.inf
) -> Procedure[Swept]:
    """Do all there is to do. Any number of processes may sweep at once.

    *stuck*: also look for active rows that no worker claimed, at the latest after so many seconds. It reads every
    runnable job, in steps, so that workers do it rarely. *seen*: see `recover_lost`.
    """
    swept = yield from recover(live, max_lost, seen=seen)
    if stuck is not None:
        yield from _recover_unclaimed(swept, stuck)
    promoted = yield from promote_due()
    swept.promoted, swept.next_due = promoted.moved, promoted.next_due
    yield from _end_time(swept)
    yield from _release_stranded(swept)
    swept.readied += yield from _offer_permits(swept)
    while (yield from ask(upkeep.settled_claims(BATCH))) == BATCH:
        pass
    _ = yield from ask(upkeep.forget_workers(KEEP_WORKERS))
    return swept


def _end_time(swept: Swept) -> Procedure[None]:
    """End what was not started in time, delete what was kept long enough."""
    place = (upkeep.LONG_AGO, NO_ID)
    while found := (yield from ask(upkeep.past(*place, BATCH))):
        refused: Refused = []
        late = [one.id for one in found if not one.started]
        swept.expired += sum((yield from each(late, manage.expire, refused)))
        _ = yield from give_up(refused)
        swept.refused += refused
        # What cannot be deleted stays; there is nothing that it holds up.
        ended = [one.id for one in found if one.started]
        swept.deleted += sum((yield from each(ended, manage.delete_outlived, swept.refused)))
        place = (found[-1].expires_at, found[-1].id)


def _release_stranded(swept: Swept) -> Procedure[None]:
    after = NO_ID
    while found := (yield from ask(upkeep.waiting(after, BATCH))):
        refused: Refused = []
        stranded = [id_ for id_, free in found if free]
        swept.released += sum((yield from each(stranded, release_waiting, refused)))
        _ = yield from give_up(refused)
        swept.refused += refused
        after = found[-1][0]


def _offer_permits(swept: Swept) -> Procedure[int]:
    refused: Refused = []
    total = 0
    while freed := (yield from ask(permits.leaked_permits(BATCH))):
        total += sum((yield from each(sorted(set(freed)), permits.ready, refused)))
    swept.refused += [(f"of group {key}", reason) for key, reason in refused]
    return total + (yield from _offer_to_blocked(swept))


def _offer_to_blocked(swept: Swept, most: float = math.inf) -> Procedure[int]:
    """Offer the free permits of groups with blocked members; how many may compete. One batch more than *most* at most.

    Whoever was offered one before may have expired, or its queue may be paused by now.
    """
    refused: Refused = []
    total, seen, after = 0, 0, ""
    while seen < most and (keys := (yield from ask(permits.blocked_groups(after, BATCH)))):
        total += sum((yield from each(keys, permits.ready, refused)))
        after, seen = keys[-1], seen + len(keys)
    swept.refused += [(f"of group {key}", reason) for key, reason in refused]
    return total
