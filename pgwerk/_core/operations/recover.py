"""Recovering jobs whose worker is dead, or cannot stop them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from pgwerk._core.lifecycle import MAX_LOST
from pgwerk._core.operation import Steps, operation, together
from pgwerk._core.operations.settle import settle_claimed, settle_locked
from pgwerk._core.outcome import Lost, Outcome, Overdue, Report
from pgwerk._core.statements import recovery, running, workers
from pgwerk._core.statements.recovery import Late
from pgwerk._core.statements.workers import LostClaim

BATCH = 500

Begun: TypeAlias = Mapping[tuple[str, int], bool]
"""The jobs (id, claim) of a worker whose handlers had begun, and whether each was past its own timeout."""


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
def recover_lost(
    live: float, max_lost: int = MAX_LOST, *, seen: float | None = math.inf, pass_over: bool = False
) -> Steps[Recovered]:
    """Recover the jobs of workers that stopped sending heartbeats.

    *seen*: for how long the caller has been there to hear them; None of one that has just come. *pass_over*: leave
    jobs that somebody else has locked for another time.
    """
    # One round trip for what nearly always finds nothing.
    dead, lost, overdue = yield from together(
        workers.mark_dead([], live, seen or 0.0), workers.lost_claims(live, 100, seen), recovery.overdue(BATCH, seen)
    )
    jobs = yield from _recover(lost, "worker lost: it stopped sending heartbeats", None, max_lost, pass_over=pass_over)
    return Recovered(jobs, dead, bool(overdue))


@operation(repeatable=True)
def recover_worker(
    worker: str, reason: str, begun: Begun | None = None, max_lost: int = MAX_LOST, *, pass_over: bool = False
) -> Steps[Recovered]:
    """Recover the jobs of a worker that is known to be dead, at once. *begun*: None when nobody knows."""
    dead = yield from workers.mark_dead([worker])
    lost = yield from workers.claims_of(worker)
    jobs = yield from _recover(lost, f"worker lost: {reason}", begun, max_lost, pass_over=pass_over)
    return Recovered(jobs, dead)


def _recover(
    lost: Sequence[LostClaim], reason: str, begun: Begun | None, max_lost: int, *, pass_over: bool = False
) -> Steps[list[str]]:
    recovered: list[str] = []
    if not lost:
        return recovered
    ids = [id_ for claim in lost for id_ in claim.job_ids]
    locked = set((yield from running.locked(ids)) if pass_over else ())
    for claim in lost:
        reports = [report for report in lost_reports(claim, reason, begun) if report.job_id not in locked]
        if reports:
            recovered += yield from settle_claimed(reports, claim.worker, max_lost=max_lost)
    yield from running.retire([claim.id for claim in lost if locked.isdisjoint(claim.job_ids)])
    return recovered


def lost_reports(claim: LostClaim, reason: str, begun: Begun | None) -> list[Report]:
    """What to report about the jobs of a claim whose worker is dead, ordered by id."""
    return [Report(id_, claim.id, _end(id_, claim.id, reason, begun)) for id_ in sorted(claim.job_ids)]


def _end(job_id: str, claim: int, reason: str, begun: Begun | None) -> Outcome:
    if begun is None:
        return Lost(reason)
    overdue = begun.get((job_id, claim))
    return Overdue(reason, begun=True) if overdue else Lost(reason, begun=overdue is not None)


@operation(repeatable=True)
def recover_overdue(late: Sequence[Late], *, seen: float | None = None) -> Steps[list[str]]:
    """Recover those of these running jobs that are still past a deadline of their own; see `recovery.overdue`."""
    jobs = yield from recovery.lock_overdue([(id_, claim) for id_, claim, _ in late], seen)
    reports = [Report(id_, claim, Overdue(reason)) for id_, claim, reason in late]
    return list((yield from settle_locked(jobs, reports, None)))


@operation(repeatable=True)
def recover_unclaimed(late: Sequence[Late], stuck: float) -> Steps[list[str]]:
    """Recover those of these active rows that still no claim knows, and that are late; see `recovery.unclaimed`."""
    jobs = yield from recovery.lock_unclaimed([id_ for id_, _, _ in late], stuck)
    if not jobs:
        return []
    yield from recovery.adopt([job.id for job in jobs])
    reasons = {id_: reason for id_, _, reason in late}
    reports = [Report(job.id, job.claim_id or 0, Overdue(reasons[job.id], begun=True)) for job in jobs]
    return list((yield from settle_locked(jobs, reports, None)))
