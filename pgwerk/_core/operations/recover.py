"""Recovering jobs whose worker is dead, or cannot stop them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pgwerk._core.operation import Steps, operation, together
from pgwerk._core.operations.settle import settle_claimed
from pgwerk._core.outcome import Lost, Report
from pgwerk._core.statements import closing, upkeep, workers
from pgwerk._core.statements.workers import LostClaim

BATCH = 500


@dataclass
class Recovered:
    """What was done about the dead."""

    jobs: list[str] = field(default_factory=list)
    """Ids of jobs that were queued again, or failed for good."""
    workers: list[str] = field(default_factory=list)
    """Names of workers that were found dead."""
    overdue: bool = False
    """Some running jobs are past a deadline of their own."""


@operation(repeatable=True)
def recover_lost(live: float, *, seen: float | None = math.inf, pass_over: bool = False) -> Steps[Recovered]:
    """Recover the jobs of workers that were not heard of in time.

    *seen*: for how long the caller has been there to hear them; None of one that has just come. *pass_over*: leave
    jobs that somebody else has locked for another time.
    """
    # One round trip for what nearly always finds nothing.
    dead, lost, overdue = yield from together(
        workers.bury([], live, seen or 0.0), workers.lost_claims(live, 100, seen or 0.0), upkeep.overdue(BATCH, seen)
    )
    jobs = yield from _recover(lost, "worker lost: it was not heard of in time", pass_over=pass_over)
    return Recovered(jobs, dead, bool(overdue))


@operation(repeatable=True)
def recover_worker(worker: str, reason: str) -> Steps[Recovered]:
    """Recover the jobs of a worker that is known to be dead, at once."""
    dead = yield from workers.bury([worker])
    lost = yield from workers.claims_of(worker)
    return Recovered((yield from _recover(lost, f"worker lost: {reason}")), dead)


def _recover(lost: Sequence[LostClaim], reason: str, *, pass_over: bool = False) -> Steps[list[str]]:
    recovered: list[str] = []
    if not lost:
        return recovered
    ids = [id_ for claim in lost for id_ in claim.job_ids]
    locked = set((yield from closing.locked(ids)) if pass_over else ())
    for claim in lost:
        reports = [Report(id_, claim.id, Lost(reason)) for id_ in sorted(claim.job_ids) if id_ not in locked]
        if reports:
            recovered += yield from settle_claimed(reports, claim.worker)
    yield from closing.retire([claim.id for claim in lost if locked.isdisjoint(claim.job_ids)])
    return recovered


@operation(repeatable=True)
def recover_overdue(*, seen: float | None = None, pass_over: bool = False) -> Steps[list[str]]:
    """Recover running jobs past their own heartbeat deadline, or past their timeout and a grace."""
    found = yield from upkeep.overdue(BATCH, seen)
    locked = (yield from closing.locked([id_ for id_, _, _ in found])) if found and pass_over else []
    reports = [Report(id_, claim, Lost(reason)) for id_, claim, reason in sorted(found) if id_ not in locked]
    return list((yield from settle_claimed(reports, None))) if reports else []


@operation(repeatable=True)
def recover_unclaimed(stuck: float) -> Steps[list[str]]:
    """Recover active rows that no worker claimed."""
    found = yield from upkeep.unclaimed(stuck, BATCH)
    if not found:
        return []
    yield from upkeep.adopt([id_ for id_, _ in found])
    reports = [Report(id_, claim, Lost("worker lost: nobody holds it")) for id_, claim in sorted(found)]
    return list((yield from settle_claimed(reports, None)))
