"""The statements of a settle that is more than a batch of plain endings, in the order it sends them.

Locks are always taken in the order: jobs that end (by id), their dependents (by id), permits (by key).
"""

from collections.abc import Sequence
from typing import NamedTuple

from pgwerk._core.job import Job
from pgwerk._core.lifecycle import Verdict
from pgwerk._core.operation import Statement, column, nothing, statement
from pgwerk._core.statements.arrays import packed_ids
from pgwerk._core.statements.columns import SETTLE_LIST, read_settled


@statement
def lock_claimed(jobs: Sequence[tuple[str, int]]) -> Statement[list[Job]]:
    """Lock those of these jobs (id, claim) that are still active under that claim."""
    return Statement(
        f"""
        select {SETTLE_LIST}
        from unnest(%(ids)s::uuid[], %(claims)s::bigint[]) as t(id, claim)
        join {{jobs}} j on j.id = t.id and j.claim_id = t.claim
        where j.status in ('active', 'aborting')
        order by j.id
        for no key update of j  -- until the settle commits, nobody else ends or aborts them
        """,
        {"ids": [job[0] for job in jobs], "claims": [job[1] for job in jobs]},
        read_settled,
    )


@statement
def lock(ids: Sequence[str], statuses: Sequence[str]) -> Statement[list[Job]]:
    """Lock those of these jobs that are in one of these statuses."""
    return Statement(
        f"""
        select {SETTLE_LIST}
        from {{jobs}} j
        where j.id = any(%(ids)s::uuid[])
          and j.status = any(%(statuses)s::text[])
        order by j.id
        for no key update of j  -- a claim passes over them, other changes wait
        """,
        {"ids": list(ids), "statuses": list(statuses)},
        read_settled,
    )


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
def lock_expired(ids: Sequence[str]) -> Statement[list[Job]]:
    """Lock those of these jobs that were not started within their ttl."""
    return Statement(
        f"""
        select {SETTLE_LIST}
        from {{jobs}} j
        where j.id = any(%(ids)s::uuid[])
          and j.status in ('queued', 'scheduled', 'waiting')
          and j.expires_at < now()
        order by j.id
        for no key update of j skip locked  -- somebody changes it: the next sweep looks again
        """,
        {"ids": list(ids)},
        read_settled,
    )


@statement
def lock_outlived(ids: Sequence[str]) -> Statement[list[str]]:
    """Lock those of these jobs that have ended, are past their retention, and whose callbacks have ended too."""
    return Statement(
        """
        select j.id::text
        from {jobs} j
        where j.id = any(%(ids)s::uuid[])
          and j.status in ('complete', 'failed', 'aborted')
          and j.expires_at < now()
          and not exists (
              select from {jobs} c
              where c.callback_of = j.id and c.status not in ('complete', 'failed', 'aborted'))
        order by j.id
        for update of j skip locked  -- somebody changes it: the next sweep looks again
        """,
        {"ids": list(ids)},
        column,
    )


@statement
def end_unstarted(entries: Sequence[tuple[str, Verdict]]) -> Statement[None]:
    """Write the end of jobs that no worker holds (locked before)."""
    return Statement(
        """
        with verdict as (
            select * from unnest(%(ids)s::uuid[], %(statuses)s::text[], %(errors)s::text[],
                                 %(keeps)s::double precision[]) as t(id, status, error, keep)
        ), ended as (
            update {jobs} j
            set status = v.status,
                error = v.error,
                blocked = false,
                worker_id = null,
                completed_at = now(),
                expires_at = now() + v.keep * interval '1 second'
            from verdict v
            where j.id = v.id
            returning j.id, j.awaited
        )
        select pg_notify({done}, string_agg(id::text, ','))
        from (select id, (row_number() over ()) / 150 as part from ended where awaited) t
        group by part
        """,
        {
            "ids": [entry[0] for entry in entries],
            "statuses": [entry[1].status.value for entry in entries],
            "errors": [entry[1].error for entry in entries],
            "keeps": [entry[1].keep for entry in entries],
        },
        nothing,
    )


@statement
def release_permits(jobs: Sequence[tuple[str, str]]) -> Statement[list[str]]:
    """Give back the permits of these jobs (key, id); the keys that were freed come back."""
    return Statement(
        """
        delete from {permits} p
        using unnest(%(keys)s::text[], %(ids)s::uuid[]) as t(key, id)
        where p.key = t.key
          and p.job_id = t.id
        returning p.key
        """,
        {"keys": [job[0] for job in jobs], "ids": [job[1] for job in jobs]},
        column,
    )


_USABLE = """and j.status = 'queued'
          and j.scheduled_at <= now()
          and (j.expires_at is null or j.expires_at > now())
          and not exists (select from {queues} q where q.name = j.queue and q.paused_at is not null)"""
_READY = """
with room as (
    select k.key, coalesce(m.group_limit, 1) - (select count(*) from {permits} p where p.key = k.key) as free
    from (select distinct unnest(%(keys)s::text[]) as key) k
    cross join lateral (
        select j.group_limit from {jobs} j
        where j.group_key = k.key
          and j.lane = 'blocked'
          ${usable}
        order by (-j.priority::integer), j.scheduled_at, j.id
        limit 1
    ) m
), next as (
    select m.id
    from room r
    cross join lateral (
        select j.id from {jobs} j
        where j.group_key = r.key
          and j.lane = 'blocked'
          ${usable}
        order by (-j.priority::integer), j.scheduled_at, j.id
        limit greatest(r.free, 0)
        for no key update of j skip locked  -- somebody else readies or cancels it
    ) m
), readied as (
    update {jobs} j
    set blocked = false
    where j.id = any (array(select id from next))
    returning j.queue
), told as (
    select pg_notify({wake}, 'q' || queue) from readied
    where exists (select from {idle})
    group by queue
)
select (select count(*) from readied), (select count(*) from told)
""".replace("${usable}", _USABLE)


@statement
def ready(keys: Sequence[str]) -> Statement[int]:
    """Let as many blocked members of these groups compete again as they have free permits.

    Only those that a claim would take: due, not expired, not in a paused queue.
    Idempotent. It must be asked in a snapshot taken after the permits were released: in its own
    transaction once more after that commit, because a denial and a release can pass each other.
    """
    return Statement(
        _READY,
        {"keys": list(keys)},
        lambda rows: int(rows[0][0]),
        repeatable=True,
    )


@statement
def groups_of(ids: Sequence[str]) -> Statement[list[str]]:
    """Name the groups of these jobs."""
    return Statement(
        """
        select distinct group_key from {jobs}
        where id = any(%(ids)s::uuid[])
          and group_key is not null
        order by group_key
        """,
        {"ids": list(ids)},
        column,
        repeatable=True,
    )


@statement
def take_keys(ids: Sequence[str]) -> Statement[None]:
    """Take the keys of ended jobs away, for their next repetition."""
    return Statement(
        "update {jobs} set key = null where id = any(%(ids)s::uuid[]) and key is not null",
        {"ids": list(ids)},
        nothing,
    )


COPIED = (
    "function", "queue", "priority", "max_lost", "payload", "meta", "timeout_secs",
    "heartbeat_secs", "group_key", "group_limit", "ttl", "result_ttl", "failure_ttl", "failure_mode",
    "retry_intervals", "no_retry", "on_success", "on_success_timeout", "on_failure",
    "on_failure_timeout", "on_stopped", "on_stopped_timeout", "repeat_interval_secs",
    "repeat_intervals", "schedule_name",
)  # fmt: skip
"""What a repetition has of the job that it repeats."""


@statement
def repeat(jobs: Sequence[tuple[Job, float]]) -> Statement[None]:
    """Insert the next repetition of these jobs (job, seconds until then), with all their options."""
    names = ", ".join(COPIED)
    return Statement(
        f"""
        with new as (
            insert into {{jobs}} ({names}, max_attempts, key, repeat_remaining, status, scheduled_at, expires_at)
            select {", ".join(f"j.{name}" for name in COPIED)}, coalesce(j.budget, j.max_attempts),
                   t.key, j.repeat_remaining - 1,
                   case when t.delay > 0 then 'scheduled' else 'queued' end,
                   now() + t.delay * interval '1 second',
                   now() + (t.delay + j.ttl) * interval '1 second'
            from unnest(%(ids)s::uuid[], %(delays)s::double precision[], %(keys)s::text[]) as t(id, delay, key)
            join {{jobs}} j on j.id = t.id
            returning queue, status, scheduled_at
        )
        select pg_notify({{wake}}, case when n.status = 'queued' then 'q' || n.queue
                                 else 'd' || extract(epoch from n.scheduled_at - now()) end)
        from new n
        """,
        {
            "ids": [job.id for job, _ in jobs],
            "delays": [delay for _, delay in jobs],
            "keys": [job.key for job, _ in jobs],
        },
        nothing,
    )


# Dependents ---------------------------------------------------------------------------------------


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


# Rows that go -------------------------------------------------------------------------------------

_SHARDS = 128
"""Of so many locks, the one for a job is that of its id's hash: one a job could be more than Postgres has room for."""


@statement
def hold(ids: Sequence[str]) -> Statement[bool]:
    """Keep the rows of these jobs from being swept away before this transaction, which depends on them, has ended.

    Once it has committed, its edges are there for all to see. Returns whether the transaction has one snapshot for all
    its statements (REPEATABLE READ, SERIALIZABLE): what it sees may have been swept away before; see `lock_present`.
    """
    return Statement(
        f"""
        select current_setting('transaction_isolation') in ('repeatable read', 'serializable'),
               pg_advisory_xact_lock_shared(hashtext({{wake}}), shard)  -- waits for deletions in progress
        from (select distinct hashtext(id) & {_SHARDS - 1} from unnest(%(ids)s::text[]) as t(id)) as s(shard)
        """,
        {"ids": list(ids)},
        lambda rows: bool(rows and rows[0][0]),
    )


@statement
def set_savepoint() -> Statement[None]:
    """Begin what `undo_to_savepoint` undoes."""
    return Statement("savepoint _pgwerk_look", {}, nothing)


@statement
def lock_present(ids: Sequence[str]) -> Statement[None]:
    """In a transaction with one snapshot: fail with a serialization error (40001) if one of these jobs is gone.

    A lock is the only way to see beyond the snapshot. One that was merely updated since is no error.
    """
    return Statement(
        """
        select id from {jobs}
        where id = any(%(ids)s::uuid[])
        order by id
        for key share  -- the weakest there is: an update that leaves the id alone is no conflict
            skip locked  -- a worker that settles the job at this moment does not delete it
        """,
        {"ids": list(ids)},
        nothing,
    )


@statement
def undo_to_savepoint() -> Statement[None]:
    """Let go of the locks taken since `set_savepoint`, which would keep workers waiting until the caller commits."""
    return Statement("rollback to savepoint _pgwerk_look", {}, nothing)


@statement
def release_savepoint() -> Statement[None]:
    """Forget the savepoint itself."""
    return Statement("release savepoint _pgwerk_look", {}, nothing)


@statement
def unheld(ids: Sequence[str]) -> Statement[list[str]]:
    """Say of which of these jobs no open transaction is making a dependency; none does until this one ends.

    What they are comes to light in a later statement: this one's snapshot is older than its locks.
    """
    return Statement(
        f"""
        with free as materialized (
            select shard, pg_try_advisory_xact_lock(hashtext({{wake}}), shard) as ours  -- never waits
            from (select distinct hashtext(id) & {_SHARDS - 1} from unnest(%(ids)s::text[]) as t(id)) as s(shard)
        )
        select t.id
        from unnest(%(ids)s::text[]) as t(id)
        join free f on f.shard = hashtext(t.id) & {_SHARDS - 1}
        where f.ours
        order by t.id
        """,
        {"ids": list(ids)},
        column,
    )


@statement
def delete(ids: Sequence[str]) -> Statement[list[str]]:
    """Delete jobs with their executions, edges and permits; the ids that existed come back."""
    return Statement(
        """
        with gone as (
            delete from {jobs} where id = any(%(ids)s::uuid[])
            returning id, awaited
        ), executions as (
            delete from {executions} where job_id = any(%(ids)s::uuid[])
        ), edges as (
            delete from {job_deps} where job_id = any(%(ids)s::uuid[])
        ), told as (
            select pg_notify({done}, string_agg(id::text, ','))
            from (select id, (row_number() over ()) / 150 as part from gone where awaited) t
            group by part
        )
        select g.id::text, (select count(*) from told) from gone g
        """,
        {"ids": list(ids)},
        column,
    )


@statement
def finished_callbacks(callbacks: Sequence[str]) -> Statement[list[str]]:
    """Find failed jobs with failure_mode 'delete' all of whose callbacks have ended, given ended callbacks."""
    return Statement(
        """
        select distinct p.id::text
        from {jobs} c
        join {jobs} p on p.id = c.callback_of
        where c.id = any(%(ids)s::uuid[])
          and p.status = 'failed'
          and p.failure_mode = 'delete'
          and not exists (
              select from {jobs} o
              where o.callback_of = p.id and o.status not in ('complete', 'failed', 'aborted'))
        """,
        {"ids": list(callbacks)},
        column,
    )
