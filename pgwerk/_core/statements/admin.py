"""What people do to jobs and queues by hand."""

from collections.abc import Sequence
from datetime import datetime

from pgwerk._core.operation import Statement, column, found, nothing, scalar, statement


@statement
def requeue(ids: Sequence[str]) -> Statement[list[str]]:
    """Queue failed or aborted jobs again; attempts stay, and as many more are allowed as there were at first.

    So are losses and interruptions.
    """
    return Statement(
        """
        with requeued as (
            update {jobs}
            set status = 'queued',
                max_attempts = least(attempts::bigint + coalesce(budget, max_attempts), 1000000000),
                budget = coalesce(budget, max_attempts),
                lost = null,
                interrupted = null,
                scheduled_at = now(),
                completed_at = null,
                started_at = null,
                result = null,
                progress = null,
                awaited = false,
                expires_at = now() + ttl * interval '1 second'
            where id = any(%(ids)s::uuid[])
              and status in ('failed', 'aborted')
            returning id, queue
        ), told as (
            select pg_notify({wake}, 'q' || queue) from requeued group by queue
        )
        select id::text, (select count(*) from told) from requeued
        """,
        {"ids": list(ids)},
        column,
    )


@statement
def database_time() -> Statement[float]:
    """Read Postgres's clock, in seconds since 1970."""
    text = "select extract(epoch from clock_timestamp())::double precision"
    return Statement(text, {}, scalar, repeatable=True)


@statement
def requeueable(queue: str | None, function: str | None, until: float, after: str, limit: int) -> Statement[list[str]]:
    """Lock failed or aborted jobs that ended before *until*, in the order of their ids from *after*."""
    return Statement(
        """
        select j.id::text from {jobs} j
        where lane = 'failed'
          and (%(queue)s::text is null or queue = %(queue)s)
          and (%(function)s::text is null or function = %(function)s)
          and (completed_at is null or completed_at <= to_timestamp(%(until)s))
          and id > %(after)s::uuid
        order by j.id
        limit %(limit)s
        for no key update skip locked  -- somebody else requeues or deletes it
        """,
        {"queue": queue, "function": function, "until": until, "after": after, "limit": limit},
        column,
    )


@statement
def cancellable(queue: str | None, before: str, limit: int) -> Statement[list[str]]:
    """Find jobs that have not started, in the reverse order of their ids from *before*."""
    return Statement(
        """
        select j.id::text from {jobs} j
        where status in ('queued', 'scheduled', 'waiting')
          and (%(queue)s::text is null or queue = %(queue)s)
          and id <= %(before)s::uuid
        order by j.id desc
        limit %(limit)s
        """,
        {"queue": queue, "before": before, "limit": limit},
        column,
        repeatable=True,
    )


@statement
def start_abort(job_id: str) -> Statement[bool]:
    """Ask the worker of an active job to stop it."""
    return Statement(
        """
        with asked as (
            update {jobs} set status = 'aborting'
            where id = %(id)s and status in ('active', 'aborting')
            returning worker_id
        )
        select pg_notify({wake}, 'a' || worker_id) from asked
        """,
        {"id": job_id},
        found,
    )


@statement
def touch_any(job_id: str) -> Statement[bool]:
    """Renew the heartbeat of a running job, whoever runs it."""
    return Statement(
        """
        update {jobs} set touched_at = now()
        where id = %(id)s and status in ('active', 'aborting')
        returning 1
        """,
        {"id": job_id},
        found,
    )


@statement
def change(
    job_id: str,
    *,
    at: datetime | None,
    delay: float | None,
    priority: int | None,
    meta: str | None,
) -> Statement[list[str | None]]:
    """Change a job: its priority and due time only while it has not started, its meta always.

    A row when there was something to change: the group in which it does not compete any more, or none.
    """
    return Statement(
        """
        with due as (
            select case when %(at)s::timestamptz is not null then %(at)s::timestamptz
                        else statement_timestamp() + %(delay)s::double precision * interval '1 second'
                   end as at
        ), changed as (
            update {jobs} j
            set priority = coalesce(%(priority)s::smallint, j.priority),
                meta = coalesce(%(meta)s::jsonb, j.meta),
                scheduled_at = case when j.status = 'waiting' then j.scheduled_at
                                    else coalesce(due.at, j.scheduled_at) end,
                wait_delay = case when j.status = 'waiting' and due.at is not null
                                  then greatest(extract(epoch from due.at - statement_timestamp()), 0)
                                  else j.wait_delay end,
                -- Its ttl counts from its new time; a member that waited for a permit competes again then.
                expires_at = case when due.at is null or j.status not in ('queued', 'scheduled') then j.expires_at
                                  else greatest(due.at, statement_timestamp()) + j.ttl * interval '1 second' end,
                blocked = j.blocked and due.at is null,
                status = case when due.at is null or j.status not in ('queued', 'scheduled') then j.status
                              when due.at > statement_timestamp() then 'scheduled' else 'queued' end
            from due
            where j.id = %(id)s
              and (j.status in ('queued', 'scheduled', 'waiting')
                   or %(priority)s::smallint is null and due.at is null)
            returning j.queue, j.status, j.scheduled_at, j.group_key
        )
        select case when c.status = 'scheduled' then c.group_key end,
               pg_notify({wake}, case c.status
                                 when 'scheduled' then 'd' || extract(epoch from c.scheduled_at - statement_timestamp())
                                 else 'q' || c.queue end)
        from changed c
        """,
        {"id": job_id, "at": at, "delay": delay, "priority": priority, "meta": meta},
        column,
    )


@statement
def purgeable(statuses: Sequence[str], older_than: float, after: str, limit: int) -> Statement[list[str]]:
    """Lock ended jobs by completion time, in the order of their ids from *after*."""
    return Statement(
        """
        select j.id::text from {jobs} j
        where status in ('complete', 'failed', 'aborted')
          and status = any(%(statuses)s::text[])
          and completed_at < now() - %(older)s * interval '1 second'
          and id > %(after)s::uuid
        order by j.id
        limit %(limit)s
        for update skip locked  -- somebody requeues it, or deletes it
        """,
        {"statuses": list(statuses), "older": older_than, "after": after, "limit": limit},
        column,
    )


@statement
def count_purgeable(statuses: Sequence[str], older_than: float) -> Statement[int]:
    """Count ended jobs by completion time."""
    return Statement(
        """
        select count(*) from {jobs}
        where status in ('complete', 'failed', 'aborted')
          and status = any(%(statuses)s::text[])
          and completed_at < now() - %(older)s * interval '1 second'
        """,
        {"statuses": list(statuses), "older": older_than},
        lambda rows: int(rows[0][0]),
        repeatable=True,
    )


@statement
def pause(queue: str, reason: str | None) -> Statement[None]:
    """Let no worker claim from a queue."""
    return Statement(
        """
        insert into {queues} (name, paused_at, reason) values (%(queue)s, now(), %(reason)s)
        on conflict (name) do update set paused_at = coalesce({queues}.paused_at, now()), reason = excluded.reason
        """,
        {"queue": queue, "reason": reason},
        nothing,
        repeatable=True,
    )


@statement
def competing(queue: str) -> Statement[list[str]]:
    """Name the groups whose members in this queue were let compete for permits."""
    return Statement(
        """
        select distinct group_key from {jobs}
        where queue = %(queue)s
          and lane = 'ready'
          and status = 'queued'
          and group_key is not null
        order by group_key
        """,
        {"queue": queue},
        column,
        repeatable=True,
    )


@statement
def resume(queue: str) -> Statement[bool]:
    """Let workers claim from a queue again."""
    return Statement(
        """
        with resumed as (
            update {queues} set paused_at = null, reason = null
            where name = %(queue)s and paused_at is not null
            returning name
        ), competing as (
            -- Meanwhile they were offered no permit.
            update {jobs} j
            set blocked = false
            from resumed
            where j.lane = 'blocked' and j.queue = resumed.name
        )
        select pg_notify({wake}, 'q' || name) from resumed
        """,
        {"queue": queue},
        found,
    )


@statement
def vacuum(table: str) -> Statement[None]:
    """VACUUM ANALYZE one table; needs a connection without a transaction."""
    return Statement(f"vacuum (analyze) {{{table}}}", {}, nothing, alone=True)
