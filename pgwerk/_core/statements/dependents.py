"""Jobs that wait for others: finding, judging and releasing them."""

from collections.abc import Sequence
from typing import NamedTuple

from pgwerk._core.operation import Statement, column, statement
from pgwerk._core.statements.arrays import packed_ids


@statement
def lock_waiting(ids: Sequence[str]) -> Statement[list[str]]:
    """Lock those of these jobs that wait for their dependencies."""
    return Statement(
        """
        select j.id::text
        from {jobs} j
        where j.id = any(%(ids)s::uuid[])
          and j.status = 'waiting'
        order by j.id
        for no key update of j  -- a parent that ends at the same time waits, or we for it
        """,
        {"ids": list(ids)},
        column,
    )


@statement
def late_dependents(parents: Sequence[str]) -> Statement[list[str]]:
    """Find jobs that wait for these, which ended before: their own commit came too late to be seen then."""
    return Statement(
        """
        select distinct job_id::text from {job_deps}
        where depends_on = any(%(parents)s::uuid[]) and not satisfied
        """,
        {"parents": packed_ids(parents)},
        column,
        repeatable=True,
    )


@statement
def lock_dependents(parents: Sequence[str]) -> Statement[list[str]]:
    """Lock the waiting jobs that depend on any of these; parents that end at once agree by this lock."""
    return Statement(
        """
        select j.id::text
        from {jobs} j
        where j.id = any (array(
                  select d.job_id from {job_deps} d
                  where d.depends_on = any(%(parents)s::uuid[]) and not d.satisfied))
          and j.status = 'waiting'
        order by j.id
        for no key update of j
        """,
        {"parents": list(parents)},
        column,
    )


@statement
def doomed(parents: Sequence[str]) -> Statement[list[tuple[str, str]]]:
    """Find the waiting jobs (id, a dependency that failed) that cannot run any more, at any depth below these.

    Nothing is locked: while its own dependency has no chance, nobody can release one of them.
    """
    return Statement(
        """
        with recursive doomed(id) as (
            select unnest(%(parents)s::uuid[])
            union
            select w.id
            from doomed p
            cross join lateral (
                select d.job_id from {job_deps} d
                where d.depends_on = p.id and not d.satisfied and not d.allow_failure
                offset 0) d  -- one look-up each, not all edges once a level
            cross join lateral (
                select j.id from {jobs} j where j.id = d.job_id and j.status = 'waiting'
                offset 0) w
        )
        select w.id::text, min(p.id::text)
        from doomed p
        cross join lateral (
            select d.job_id from {job_deps} d
            where d.depends_on = p.id and not d.satisfied and not d.allow_failure
            offset 0) d
        cross join lateral (
            select j.id from {jobs} j where j.id = d.job_id and j.status = 'waiting'
            offset 0) w
        group by w.id
        order by w.id
        """,
        {"parents": list(parents)},
        lambda rows: [(row[0], row[1]) for row in rows],
    )


class DependencyCheck(NamedTuple):
    """Waiting jobs that were released, and (job, the dependency that failed) of those that never will be."""

    released: list[str]
    failed_dependents: list[tuple[str, str]]


@statement
def check_dependencies(ids: Sequence[str]) -> Statement[DependencyCheck]:
    """Release those of these waiting jobs (locked before) whose dependencies are all met; find the hopeless ones.

    A dependency whose row is gone before it was met counts as failed.
    """
    return Statement(
        """
        with edge as (
            select d.job_id, d.depends_on,
                   case when p.status = 'complete' then 'met'
                        when d.allow_failure and (p.id is null or p.status in ('failed', 'aborted')) then 'met'
                        when p.id is null or p.status in ('failed', 'aborted') then 'failed'
                        else 'open'
                   end as state
            from {job_deps} d
            left join {jobs} p on p.id = d.depends_on
            where d.job_id = any(%(ids)s::uuid[])
              and not d.satisfied
        ), met as (
            update {job_deps} d
            set satisfied = true
            from edge e
            where d.job_id = e.job_id and d.depends_on = e.depends_on and e.state = 'met'
        ), child as (
            select t.id,
                   coalesce(bool_or(e.state = 'open'), false) as open,
                   min(e.depends_on::text) filter (where e.state = 'failed') as failed_parent
            from unnest(%(ids)s::uuid[]) as t(id)
            left join edge e on e.job_id = t.id
            group by t.id
        ), due as (
            -- Not now(): a job of this very transaction is due later than the transaction began.
            select c.id, case when j.wait_delay is null then greatest(j.scheduled_at, statement_timestamp())
                              else statement_timestamp() + j.wait_delay * interval '1 second' end as at
            from child c
            join {jobs} j on j.id = c.id
            where not c.open and c.failed_parent is null
        ), released as (
            update {jobs} j
            set status = case when d.at > statement_timestamp() then 'scheduled' else 'queued' end,
                scheduled_at = d.at,
                expires_at = d.at + j.ttl * interval '1 second'
            from due d
            where j.id = d.id
              and j.status = 'waiting'
            returning j.id, j.queue, j.status, j.scheduled_at
        ), told as (
            select pg_notify({wake}, message)
            from (select 'q' || queue from released where status = 'queued' group by queue
                  union all
                  select 'd' || extract(epoch from min(scheduled_at) - statement_timestamp()) from released
                  where status = 'scheduled' having count(*) > 0) t(message)
        )
        select r.id::text, null::text, (select count(*) from told) from released r
        union all
        select c.id::text, c.failed_parent, 0 from child c where c.failed_parent is not null
        """,
        {"ids": list(ids)},
        lambda rows: DependencyCheck(
            [row[0] for row in rows if row[1] is None],
            [(row[0], row[1]) for row in rows if row[1] is not None],
        ),
    )
