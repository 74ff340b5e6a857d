"""What has to be looked after while jobs run: due jobs, overdue jobs, leftovers, retention."""

from collections.abc import Sequence
from typing import NamedTuple

from pgwerk._core.operation import Statement, column, count, nothing, statement


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
