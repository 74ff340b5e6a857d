"""Running jobs that are past a deadline, or that no claim knows."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from pgwerk._core.job import Job
from pgwerk._core.operation import Rows, Statement, nothing, statement
from pgwerk._core.statements.columns import SETTLE_LIST, read_settled

OVERDUE_GRACE = 30.0
"""Seconds past a job's own timeout after which its worker is taken to be unable to enforce it."""


Late: TypeAlias = "tuple[str, int, str]"
"""A running job that is past a deadline: its id, its claim and the reason."""


_OVERDUE = """(j.touched_at + j.heartbeat_secs * interval '1 second' < now()
               and there.seconds >= j.heartbeat_secs
           or j.started_at + (j.timeout_secs + %(grace)s) * interval '1 second' < now()
               and there.seconds >= %(grace)s)"""


_THERE = """select coalesce(%(seen)s::double precision,
                            extract(epoch from now() - pg_postmaster_start_time())) as seconds"""


@statement
def overdue(limit: int, seen: float | None = None) -> Statement[list[Late]]:
    """Find running jobs past their own heartbeat deadline, or past timeout plus grace.

    Only what could have been reported meanwhile: the caller, or else Postgres, has been there for *seen* seconds.
    """
    return Statement(
        f"""
        with there as (
            {_THERE}
        )
        select j.id::text, c.id,
               case when j.touched_at + j.heartbeat_secs * interval '1 second' < now()
                         and there.seconds >= j.heartbeat_secs
                    then 'worker lost: the job was not renewed for ' || j.heartbeat_secs || ' s'
                    else 'timed out after ' || j.timeout_secs || ' s, and its worker did not stop it'
               end
        from there
        cross join {{claims}} c
        cross join unnest(c.job_ids) as member(id)
        cross join lateral (
            select * from {{jobs}} j
            where j.id = member.id and j.claim_id = c.id and j.status in ('active', 'aborting')
            offset 0  -- one look-up each: the planner knows too little of claims, and would read all jobs
        ) j
        where {_OVERDUE}
        limit %(limit)s
        """,
        {"grace": OVERDUE_GRACE, "limit": limit, "seen": seen},
        lambda rows: [(row[0], row[1], row[2]) for row in rows],
        repeatable=True,
    )


@statement
def lock_overdue(jobs: Sequence[tuple[str, int]], seen: float | None = None) -> Statement[list[Job]]:
    """Lock those of these jobs (id, claim) that are still overdue: their worker may have renewed one meanwhile."""
    return Statement(
        f"""
        with there as (
            {_THERE}
        )
        select {SETTLE_LIST}
        from unnest(%(ids)s::uuid[], %(claims)s::bigint[]) as t(id, claim)
        cross join there
        join {{jobs}} j on j.id = t.id and j.claim_id = t.claim
        where j.status in ('active', 'aborting')
          and {_OVERDUE}
        order by j.id
        for no key update of j skip locked  -- it is being renewed or settled: the next look judges it again
        """,
        {
            "ids": [job[0] for job in jobs],
            "claims": [job[1] for job in jobs],
            "grace": OVERDUE_GRACE,
            "seen": seen,
        },
        read_settled,
    )


RunnablePlace: TypeAlias = "tuple[str, int, str, str]"
"""A place in the index of runnable jobs: queue, minus priority, scheduled_at, id."""


FIRST_RUNNABLE: RunnablePlace = ("", -(2**31), "-infinity", "00000000-0000-0000-0000-000000000000")


class Unclaimed(NamedTuple):
    """What one step found, and the last place it read; None when there was nothing left to read."""

    found: list[Late]
    last: "RunnablePlace | None"


_DEADLINES = """select coalesce(j.touched_at, j.started_at, j.scheduled_at)
                       + j.heartbeat_secs * interval '1 second' as beat,
                   coalesce(j.started_at, j.scheduled_at)
                       + (j.timeout_secs + %(grace)s) * interval '1 second' as stop"""


_UNCLAIMED = """j.status in ('active', 'aborting')
          and (d.beat < now()
               or d.stop < now()
               or coalesce(j.started_at, j.scheduled_at) < now() - %(stuck)s * interval '1 second')
          and not exists (select from {claims} c where c.id = j.claim_id and j.id = any(c.job_ids))"""


@statement
def unclaimed(stuck: float, after: RunnablePlace, limit: int) -> Statement[Unclaimed]:
    """Read on among runnable jobs, from this place, and find active ones that no claim knows: rows somebody edited.

    They are past their own heartbeat deadline, past their timeout and a grace, or active for *stuck* seconds. Each
    step reads no more than *limit* rows, whatever it finds.
    """
    queue, rank, at, id_ = after
    return Statement(
        f"""
        with step as materialized (
            select j.id, j.queue, (-j.priority::integer) as rank, j.scheduled_at, j.status, j.claim_id,
                   j.touched_at, j.started_at, j.heartbeat_secs, j.timeout_secs
            from {{jobs}} j
            where j.lane = 'ready'
              and (j.queue, (-j.priority::integer), j.scheduled_at, j.id)
                  > (%(queue)s::text, %(rank)s::integer, %(at)s::timestamptz, %(id)s::uuid)
            order by j.queue, (-j.priority::integer), j.scheduled_at, j.id
            limit %(limit)s
        )
        select j.id::text, coalesce(j.claim_id, 0),
               case when d.beat < now()
                    then 'worker lost: nobody holds it, and it was not renewed for ' || j.heartbeat_secs || ' s'
                    when d.stop < now()
                    then 'timed out after ' || j.timeout_secs || ' s, and nobody holds it'
                    else 'worker lost: nobody holds it'
               end,
               null::text, null::integer, null::text
        from step j
        cross join lateral (
            {_DEADLINES}
        ) d
        where {_UNCLAIMED}
        union all
        (select s.id::text, null, null, s.queue, s.rank, s.scheduled_at::text
         from step s
         order by s.queue desc, s.rank desc, s.scheduled_at desc, s.id desc
         limit 1)
        """,
        {"queue": queue, "rank": rank, "at": at, "id": id_, "stuck": stuck, "grace": OVERDUE_GRACE, "limit": limit},
        _read_unclaimed,
        repeatable=True,
    )


def _read_unclaimed(rows: Rows) -> Unclaimed:
    found = [(row[0], row[1], row[2]) for row in rows if row[1] is not None]
    last = next(((row[3], row[4], row[5], row[0]) for row in rows if row[1] is None), None)
    return Unclaimed(found, last)


@statement
def lock_unclaimed(ids: Sequence[str], stuck: float) -> Statement[list[Job]]:
    """Lock those of these jobs that are still active and late, and that no claim knows."""
    return Statement(
        f"""
        select {SETTLE_LIST}
        from {{jobs}} j
        cross join lateral (
            {_DEADLINES}
        ) d
        where j.id = any(%(ids)s::uuid[])
          and {_UNCLAIMED}
        order by j.id
        for no key update of j skip locked  -- somebody changes it: the next sweep looks again
        """,
        {"ids": list(ids), "stuck": stuck, "grace": OVERDUE_GRACE},
        read_settled,
    )


@statement
def adopt(ids: Sequence[str]) -> Statement[None]:
    """Give such jobs a claim number, so that they can be fenced like all others."""
    return Statement(
        "update {jobs} set claim_id = 0 where id = any(%(ids)s::uuid[]) and claim_id is null",
        {"ids": list(ids)},
        nothing,
    )
