"""What has to be looked after while jobs run: due jobs, overdue jobs, leftovers, retention."""

from collections.abc import Sequence
from typing import NamedTuple

from pgwerk._core.operation import Statement, column, count, nothing

OVERDUE_GRACE = 30.0
"""Seconds past a job's own timeout after which its worker is taken to be unable to enforce it."""


class Promoted(NamedTuple):
    """How many scheduled jobs became queued, and in how many seconds the next one is due."""

    moved: int
    next_due: float | None


def promote(limit: int) -> Statement[Promoted]:
    """Queue scheduled jobs that are due."""
    return Statement(
        """
        with due as (
            select id from {jobs}
            where lane = 'scheduled' and scheduled_at <= now()
            order by scheduled_at
            limit %(limit)s
            for update skip locked  -- another worker promotes it, or somebody cancels it
        ), promoted as (
            update {jobs} j
            set status = 'queued'
            where j.id = any (array(select id from due))
              and j.status = 'scheduled'
            returning j.queue
        ), told as (
            select pg_notify({wake}, 'q' || queue) from promoted
            where exists (select from {idle})
            group by queue
        )
        select (select count(*) from promoted),
               least(
                   (select extract(epoch from min(scheduled_at) - now())::double precision
                    from {jobs} where lane = 'scheduled' and scheduled_at > now()),
                   -- One that somebody had locked; ours are still scheduled in this snapshot.
                   (select 0.05::double precision
                    from (
                        select id from {jobs}
                        where lane = 'scheduled' and scheduled_at <= now()
                        order by scheduled_at
                        limit %(limit)s + 1) d
                    where d.id <> all (array(select id from due))
                    limit 1)),
               (select count(*) from told)
        """,
        {"limit": limit},
        lambda rows: Promoted(int(rows[0][0]), rows[0][1]),
        repeatable=True,
    )


def overdue(limit: int, seen: float | None = None) -> Statement[list[tuple[str, int, str]]]:
    """Find running jobs (id, claim, reason) past their own heartbeat deadline, or past timeout plus grace.

    Only what could have been reported meanwhile: the caller, or else Postgres, has been there for *seen* seconds.
    """
    return Statement(
        """
        with there as (
            select coalesce(%(seen)s::double precision,
                            extract(epoch from now() - pg_postmaster_start_time())) as seconds
        )
        select j.id::text, c.id,
               case when j.touched_at + j.heartbeat_secs * interval '1 second' < now()
                         and there.seconds >= j.heartbeat_secs
                    then 'worker lost: the job was not renewed for ' || j.heartbeat_secs || ' s'
                    else 'timed out after ' || j.timeout_secs || ' s, and its worker did not stop it'
               end
        from there
        cross join {claims} c
        cross join unnest(c.job_ids) as member(id)
        cross join lateral (
            select * from {jobs} j
            where j.id = member.id and j.claim_id = c.id and j.status in ('active', 'aborting')
            offset 0  -- one look-up each: the planner knows too little of claims, and would read all jobs
        ) j
        where j.touched_at + j.heartbeat_secs * interval '1 second' < now() and there.seconds >= j.heartbeat_secs
           or j.started_at + (j.timeout_secs + %(grace)s) * interval '1 second' < now() and there.seconds >= %(grace)s
        limit %(limit)s
        """,
        {"grace": OVERDUE_GRACE, "limit": limit, "seen": seen},
        lambda rows: [(row[0], row[1], row[2]) for row in rows],
        repeatable=True,
    )


def unclaimed(stuck: float, limit: int) -> Statement[list[tuple[str, int, str]]]:
    """Find active jobs (id, claim, reason) that no claim knows: rows that somebody edited.

    They are past their own heartbeat deadline, past their timeout and a grace, or active for *stuck* seconds.
    """
    return Statement(
        """
        select j.id::text, coalesce(j.claim_id, 0),
               case when d.beat < now()
                    then 'worker lost: nobody holds it, and it was not renewed for ' || j.heartbeat_secs || ' s'
                    when d.stop < now()
                    then 'timed out after ' || j.timeout_secs || ' s, and nobody holds it'
                    else 'worker lost: nobody holds it'
               end
        from {jobs} j
        cross join lateral (
            select coalesce(j.touched_at, j.started_at, j.scheduled_at)
                       + j.heartbeat_secs * interval '1 second' as beat,
                   coalesce(j.started_at, j.scheduled_at)
                       + (j.timeout_secs + %(grace)s) * interval '1 second' as stop
        ) d
        where j.lane = 'ready'
          and j.status <> 'queued'
          and (d.beat < now()
               or d.stop < now()
               or coalesce(j.started_at, j.scheduled_at) < now() - %(stuck)s * interval '1 second')
          and not exists (select from {claims} c where c.id = j.claim_id and j.id = any(c.job_ids))
        limit %(limit)s
        """,
        {"stuck": stuck, "grace": OVERDUE_GRACE, "limit": limit},
        lambda rows: [(row[0], row[1], row[2]) for row in rows],
        repeatable=True,
    )


def adopt(ids: Sequence[str]) -> Statement[None]:
    """Give such jobs a claim number, so that they can be fenced like all others."""
    return Statement(
        "update {jobs} set claim_id = 0 where id = any(%(ids)s::uuid[]) and claim_id is null",
        {"ids": list(ids)},
        nothing,
    )


def settled_claims() -> Statement[int]:
    """Forget claims none of whose jobs is active under them any more (left by workers that died after a settle)."""
    return Statement(
        """
        delete from {claims} c
        where c.claimed_at < now() - interval '1 minute'
          and not exists (
              select from {jobs} j
              where j.id = any(c.job_ids) and j.claim_id = c.id and j.status in ('active', 'aborting')
              offset 0)  -- see overdue
        returning c.id
        """,
        {},
        count,
        repeatable=True,
    )


def expired(limit: int) -> Statement[list[str]]:
    """Find jobs that were not started within their ttl."""
    return Statement(
        """
        select id::text from {jobs}
        where expires_at is not null
          and expires_at < now()
          and status in ('queued', 'scheduled', 'waiting')
        order by expires_at
        limit %(limit)s
        """,
        {"limit": limit},
        column,
        repeatable=True,
    )


def outlived(limit: int) -> Statement[list[str]]:
    """Find ended jobs past their retention, whose callbacks have ended too."""
    return Statement(
        """
        select j.id::text from {jobs} j
        where j.expires_at is not null
          and j.expires_at < now()
          and j.status in ('complete', 'failed', 'aborted')
          and not exists (
              select from {jobs} c
              where c.callback_of = j.id and c.status not in ('complete', 'failed', 'aborted'))
        order by j.expires_at
        limit %(limit)s
        """,
        {"limit": limit},
        column,
        repeatable=True,
    )


def stranded(after: str, limit: int) -> Statement[list[str]]:
    """Find waiting jobs, by id from *after*, that nothing holds back any more."""
    return Statement(
        """
        select w.id::text
        from (select id from {jobs} where lane = 'waiting' and id > %(after)s::uuid order by id) w
        where not exists (
                  select from {job_deps} d
                  join {jobs} p on p.id = d.depends_on
                  where d.job_id = w.id and not d.satisfied
                    and p.status not in ('complete', 'failed', 'aborted'))
           or exists (
                  select from {job_deps} d
                  join {jobs} p on p.id = d.depends_on
                  where d.job_id = w.id and not d.satisfied and not d.allow_failure
                    and p.status in ('failed', 'aborted'))
        order by w.id
        limit %(limit)s
        """,
        {"after": after, "limit": limit},
        column,
        repeatable=True,
    )


def leaked_permits() -> Statement[list[str]]:
    """Give back permits whose job is not active; the keys that were freed come back."""
    return Statement(
        """
        delete from {permits} p
        where not exists (
            select from {jobs} j where j.id = p.job_id and j.status in ('active', 'aborting')
            offset 0)  -- see overdue
        returning p.key
        """,
        {},
        column,
        repeatable=True,
    )


def blocked_groups() -> Statement[list[str]]:
    """Find groups with blocked members."""
    return Statement(
        "select distinct group_key from {jobs} where lane = 'blocked'",
        {},
        column,
        repeatable=True,
    )


def forget_workers(older_than: float) -> Statement[int]:
    """Delete the rows of workers that ended *older_than* seconds ago."""
    return Statement(
        """
        delete from {worker} w
        where w.status <> 'active'
          and w.expires_at < now() - %(older)s * interval '1 second'
          and not exists (select from {claims} c where c.worker_id = w.id)
        returning w.id
        """,
        {"older": older_than},
        count,
        repeatable=True,
    )
