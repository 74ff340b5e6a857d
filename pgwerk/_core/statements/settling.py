"""The statements of a settle that is more than a batch of plain endings: locking, ending and repeating jobs.

What follows from an end is in `permits`, `dependents` and `deletions`.

Locks are always taken in the order: jobs that end (by id), their dependents (by id), permits (by key).
"""

from collections.abc import Sequence

from pgwerk._core.job import Job
from pgwerk._core.lifecycle import Verdict
from pgwerk._core.operation import Statement, nothing, statement
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
