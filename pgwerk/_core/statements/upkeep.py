"""What has to be looked after while jobs run: due jobs, overdue jobs, leftovers, retention."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from pgwerk._core.job import Job
from pgwerk._core.operation import Rows, Statement, column, count, nothing, statement
from pgwerk._core.statements.columns import SETTLE_LIST, read_settled

OVERDUE_GRACE = 30.0
"""Seconds past a job's own timeout after which its worker is taken to be unable to enforce it."""


class Promoted(NamedTuple):
    """How many scheduled jobs became queued, and in how many seconds the next one is due."""

    moved: int
    next_due: float | None


@statement
def promote(limit: int) -> Statement[Promoted]:
    """Queue scheduled jobs that are due."""
    return Statement(
        """
        with due as (
            select id from {jobs}
            where lane = 'scheduled' and scheduled_at <= now()
            order by scheduled_at
            limit %(limit)s
            for no key update skip locked  -- another worker promotes it, or somebody cancels it
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


@statement
def due(limit: int) -> Statement[list[str]]:
    """Name scheduled jobs that are due."""
    return Statement(
        """
        select j.id::text from {jobs} j
        where j.lane = 'scheduled' and j.scheduled_at <= now()
        order by j.scheduled_at
        limit %(limit)s
        """,
        {"limit": limit},
        column,
        repeatable=True,
    )


@statement
def promote_these(ids: Sequence[str]) -> Statement[int]:
    """Queue those of these scheduled jobs that are due; how many."""
    return Statement(
        """
        with promoted as (
            update {jobs} j
            set status = 'queued'
            where j.id = any(%(ids)s::uuid[])
              and j.status = 'scheduled'
              and j.scheduled_at <= now()
            returning j.queue
        ), told as (
            select pg_notify({wake}, 'q' || queue) from promoted group by queue
        )
        select (select count(*) from promoted), (select count(*) from told)
        """,
        {"ids": list(ids)},
        lambda rows: int(rows[0][0]),
        repeatable=True,
    )


@statement
def next_in(queues: Sequence[str], limit: int, skip: Sequence[str] = ()) -> Statement[list[str]]:
    """Name the jobs that come next in each of these queues, but for those to *skip*."""
    return Statement(
        """
        select j.id::text
        from unnest(%(queues)s::text[]) as q(name)
        cross join lateral (
            select j.id from {jobs} j
            where j.queue = q.name
              and j.lane = 'ready'
              and j.status = 'queued'
              and j.scheduled_at <= now()
              and j.id <> all(%(skip)s::uuid[])
            order by (-j.priority::integer), j.scheduled_at, j.id
            limit %(limit)s
        ) j
        """,
        {"queues": list(queues), "limit": limit, "skip": list(skip)},
        column,
        repeatable=True,
    )


@statement
def rehearse_claim(ids: Sequence[str]) -> Statement[list[str]]:
    """Write what a claim would; nobody else sees it before `forget_rehearsal`, in the same transaction."""
    return Statement(
        """
        update {jobs} j
        set status = 'active',
            attempts = j.attempts + 1,
            started_at = now(),
            touched_at = now()
        where j.id in (
                select id from {jobs}
                where id = any(%(ids)s::uuid[])
                  and status = 'queued'
                for no key update skip locked)  -- it is being claimed
          and j.status = 'queued'
        returning j.id::text
        """,
        {"ids": list(ids)},
        column,
    )


@statement
def forget_rehearsal(ids: Sequence[str]) -> Statement[None]:
    """Take back what `rehearse_claim` wrote."""
    return Statement(
        """
        update {jobs} j
        set status = 'queued',
            attempts = j.attempts - 1,
            started_at = null,
            touched_at = null
        where j.id = any(%(ids)s::uuid[])
        """,
        {"ids": list(ids)},
        nothing,
    )


@statement
def give_up(job_id: str, reason: str, claim: int | None = None) -> Statement[list[str]]:
    """Fail a job that holds up others, and nothing else: no callback, no dependents, no retention.

    Those that depend on it are found by the sweep. With *claim*, only while it is active under that claim.
    """
    return Statement(
        """
        with failed as (
            update {jobs} j
            set status = 'failed',
                error = %(reason)s,
                completed_at = now(),
                worker_id = null,
                blocked = false,
                expires_at = null
            where j.id = %(id)s
              and j.status not in ('complete', 'failed', 'aborted')
              and (%(claim)s::bigint is null or j.claim_id = %(claim)s and j.status in ('active', 'aborting'))
            returning j.id, j.awaited
        ), told as (
            select pg_notify({done}, id::text) from failed where awaited
        )
        select f.id::text, (select count(*) from told) from failed f
        """,
        {"id": job_id, "reason": reason, "claim": claim},
        column,
        repeatable=True,
    )


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


@statement
def settled_claims(limit: int) -> Statement[int]:
    """Forget claims none of whose jobs is active under them any more (left by workers that died after a settle)."""
    return Statement(
        """
        delete from {claims}
        where id = any (array(
            select c.id from {claims} c
            where c.claimed_at < now() - interval '1 minute'
              and not exists (
                  select from {jobs} j
                  where j.id = any(c.job_ids) and j.claim_id = c.id and j.status in ('active', 'aborting')
                  offset 0)  -- see overdue
            limit %(limit)s))
        returning id
        """,
        {"limit": limit},
        count,
        repeatable=True,
    )


class Past(NamedTuple):
    """A job whose time is over: its ttl when it has not started, its retention when it has ended."""

    id: str
    expires_at: str
    started: bool


LONG_AGO = "-infinity"


@statement
def past(expires_at: str, id_: str, limit: int) -> Statement[list[Past]]:
    """Read on in the index of those whose time is over, from this place.

    Whatever they are, and whether or not something can be done about them: each step reads no more than *limit*.
    """
    return Statement(
        """
        select j.id::text, j.expires_at::text, j.status not in ('queued', 'scheduled', 'waiting')
        from {jobs} j
        where j.expires_at is not null
          and j.expires_at < now()
          and (j.expires_at, j.id) > (%(expires_at)s::timestamptz, %(id)s::uuid)
        order by j.expires_at, j.id
        limit %(limit)s
        """,
        {"expires_at": expires_at, "id": id_, "limit": limit},
        lambda rows: [Past(*row) for row in rows],
        repeatable=True,
    )


@statement
def waiting(after: str, limit: int) -> Statement[list[tuple[str, bool]]]:
    """Read on among waiting jobs, by id from *after*: (id, whether nothing holds it back any more)."""
    return Statement(
        """
        select w.id::text, not coalesce(e.open, false) or coalesce(e.hopeless, false)
        from (
            select id from {jobs} where lane = 'waiting' and id > %(after)s::uuid order by id limit %(limit)s
        ) w
        cross join lateral (
            select bool_or(p.status not in ('complete', 'failed', 'aborted')) as open,
                   bool_or(p.status in ('failed', 'aborted') and not d.allow_failure) as hopeless
            from (select * from {job_deps} d where d.job_id = w.id and not d.satisfied offset 0) d  -- see overdue
            cross join lateral (select p.status from {jobs} p where p.id = d.depends_on offset 0) p
        ) e
        order by w.id
        """,
        {"after": after, "limit": limit},
        lambda rows: [(row[0], row[1]) for row in rows],
        repeatable=True,
    )


@statement
def leaked_permits(limit: int) -> Statement[list[str]]:
    """Give back permits whose job is not active; the keys that were freed come back."""
    return Statement(
        """
        delete from {permits} p
        using (
            select p.key, p.slot, p.job_id from {permits} p
            where not exists (
                select from {jobs} j where j.id = p.job_id and j.status in ('active', 'aborting')
                offset 0)  -- see overdue
            limit %(limit)s) leaked
        where p.key = leaked.key
          and p.slot = leaked.slot
          and p.job_id = leaked.job_id  -- somebody else's by now
        returning p.key
        """,
        {"limit": limit},
        column,
        repeatable=True,
    )


@statement
def blocked_groups(after: str, limit: int) -> Statement[list[str]]:
    """Name groups with blocked members, in order from *after*, with one step through the index for each."""
    return Statement(
        """
        with recursive found(key) as (
            (select group_key from {jobs}
             where lane = 'blocked' and group_key > %(after)s
             order by group_key
             limit 1)
            union all
            select n.group_key
            from found f
            cross join lateral (
                select j.group_key from {jobs} j
                where j.lane = 'blocked' and j.group_key > f.key
                order by j.group_key
                limit 1) n
        )
        select key from found limit %(limit)s
        """,
        {"after": after, "limit": limit},
        column,
        repeatable=True,
    )


@statement
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
