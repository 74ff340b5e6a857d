"""Statements about running jobs, each fenced by the claim: closing a batch of attempts, renewing, finding strays."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from pgwerk._core.lifecycle import DONE, Verdict
from pgwerk._core.operation import Rows, Statement, column, nothing, statement
from pgwerk._core.outcome import Report
from pgwerk._core.statements.arrays import array, packed_floats, packed_ids, packed_integers

_VERDICTS = """
    select *
    from unnest(%(ids)s::uuid[], %(claims)s::bigint[], %(results)s::text[],
                %(began)s::double precision[], %(ended)s::double precision[],
                %(statuses)s::text[], %(executions)s::text[], %(errors)s::text[], %(delays)s::double precision[],
                %(uncounts)s::boolean[], %(keeps)s::double precision[], %(marks)s::text[])
         as t(id, claim, result, began, ended, status, execution, error, delay, uncount, keep, mark)
"""
# Most batches: every job is complete, without a result.
_ALL_DONE = """
    select t.*, null::text as result, 'complete'::text as status, 'complete'::text as execution,
           null::text as error, null::double precision as delay, false as uncount, null::double precision as keep
    from unnest(%(ids)s::uuid[], %(claims)s::bigint[],
                %(began)s::double precision[], %(ended)s::double precision[]) as t(id, claim, began, ended)
"""

_CLOSE = """
with verdict as (
${verdicts}
), closed as (
    update {jobs} j
    set status = v.status,
        result = v.result::jsonb,
        ${marks}attempts = j.attempts - v.uncount::integer,
        worker_id = null,
        progress = case when v.delay is null then j.progress end,
        started_at = case when v.delay is null then now() - v.began * interval '1 second' end,
        completed_at = case when v.delay is null then now() - v.ended * interval '1 second' end,
        -- A job that goes back keeps its place; one that waits for its next attempt gets a new one.
        scheduled_at = case when v.delay > 0 then now() + v.delay * interval '1 second' else j.scheduled_at end,
        expires_at = case when v.delay is null then now() + v.keep * interval '1 second'
                          -- Given back before its first start: its ttl goes on.
                          when v.uncount and v.execution is null and j.attempts = 1
                               and coalesce(j.lost, j.interrupted, j.watched) is null
                          then greatest(j.scheduled_at, j.enqueued_at) + j.ttl * interval '1 second' end
    from verdict v
    where j.id = v.id
      and j.claim_id = v.claim  -- the fence: whoever lost the job changes nothing
      and (j.status = 'active' or %(whole)s and j.status = 'aborting')
      -- What needs more than this statement is left for the transaction that does it all.
      and (%(whole)s or v.delay is not null
           or not exists (select from {job_deps} d where d.depends_on = j.id and not d.satisfied))
    returning j.id, j.awaited, j.status, j.queue, v.delay, v.execution, j.attempts + v.uncount::integer as attempt,
              v.result, v.error, v.began, v.ended
), recorded as (
    insert into {executions} (job_id, attempt, status, worker_id, started_at, completed_at, error, result)
    select id, attempt, execution, %(worker)s,
           now() - began * interval '1 second', now() - ended * interval '1 second', error, result::jsonb
    from closed
    where execution is not null
), told as (
    select pg_notify(channel, message)
    from (
        -- Those who wait for these jobs, in messages well under the limit of 8000 bytes.
        select {done}, string_agg(id::text, ',')
        from (select id, (row_number() over ()) / 150 as part from closed where awaited and delay is null) w
        group by part
        union all
        select {wake}, 'q' || queue from closed
        where delay = 0 and exists (select from {idle})
        group by queue
    ) t(channel, message)
)
-- Most often that is all of them, and to say so is enough.
select case when count(*) = %(count)s then null else coalesce(array_agg(c.id)::text[], '{}') end,
       (select count(*) from told)
from closed c
"""


# A job that is given back keeps the error of its last attempt; a loss is one more reason.
_MARKS = """error = case when v.uncount and v.mark is distinct from 'lost' and v.mark is distinct from 'doubt'
                     then j.error else v.error end,
        lost = case when v.mark = 'lost' then least(coalesce(j.lost, 0), 2147483646) + 1 else j.lost end,
        watched = case when v.mark in ('lost', 'doubt') then coalesce(j.watched, 0) else j.watched end,
        interrupted = case when v.mark = 'interrupted' then least(coalesce(j.interrupted, 0), 2147483646) + 1
                           else j.interrupted end,
        """
_CLOSE_ANY = _CLOSE.replace("${verdicts}", _VERDICTS).replace("${marks}", _MARKS)
_CLOSE_DONE = _CLOSE.replace("${verdicts}", _ALL_DONE).replace("${marks}", "error = null,\n        ")


@statement
def close(entries: Sequence[tuple[Report, Verdict]], worker: str | None, *, whole: bool) -> Statement[list[str]]:
    """Write verdicts about claimed jobs and record their attempts; the ids that were written come back.

    Not *whole*: jobs with dependents, and jobs that somebody aborts, are left alone; for connections of workers only.
    """
    ids, claims, _, began, ended = zip(*(report for report, _ in entries), strict=True)
    read = partial(_read_closed, ids)
    params: dict[str, Any] = {"count": len(ids), "worker": worker, "whole": whole}
    if whole:
        params |= {"ids": array(ids), "claims": array(claims), "began": array(began), "ended": array(ended)}
    else:
        params |= {
            "ids": packed_ids(ids),
            "claims": packed_integers(claims),
            "began": packed_floats(began),
            "ended": packed_floats(ended),
        }
    if all(verdict is DONE for _, verdict in entries):
        return Statement(_CLOSE_DONE, params, read, repeatable=True)
    params["results"] = [verdict.result for _, verdict in entries]
    verdicts = [verdict for _, verdict in entries]
    params |= {
        "statuses": [verdict.status.value for verdict in verdicts],
        "executions": [verdict.execution.value if verdict.execution else None for verdict in verdicts],
        "errors": [verdict.error for verdict in verdicts],
        "delays": [verdict.delay for verdict in verdicts],
        "uncounts": [verdict.uncount for verdict in verdicts],
        "keeps": [verdict.keep for verdict in verdicts],
        "marks": [verdict.mark.value if verdict.mark else None for verdict in verdicts],
    }
    return Statement(_CLOSE_ANY, params, read, repeatable=True)


def _read_closed(ids: Sequence[str], rows: Rows) -> list[str]:
    closed: list[str] | None = rows[0][0]
    return list(ids) if closed is None else closed


@statement
def retire(claims: Sequence[int]) -> Statement[None]:
    """Forget claims all of whose jobs are settled."""
    return Statement(
        "delete from {claims} where id = any(%(claims)s::bigint[])",
        {"claims": list(claims)},
        nothing,
        repeatable=True,
    )


@statement
def stray(worker: str, known: Sequence[int]) -> Statement[list[tuple[str, int]]]:
    """Find jobs that this worker claimed without knowing it: the answer was lost with a connection."""
    return Statement(
        """
        select j.id::text, c.id
        from {claims} c
        cross join unnest(c.job_ids) as member(id)
        cross join lateral (
            select j.id from {jobs} j
            where j.id = member.id and j.claim_id = c.id and j.status in ('active', 'aborting')
            offset 0  -- one look-up each, whatever the planner thinks of the size of claims
        ) j
        where c.worker_id = %(worker)s
          and c.id <> all (%(known)s::bigint[])
        """,
        {"worker": worker, "known": list(known)},
        lambda rows: [(row[0], row[1]) for row in rows],
        repeatable=True,
    )


@statement
def locked(ids: Sequence[str]) -> Statement[list[str]]:
    """Say which of these jobs somebody else has locked just now."""
    return Statement(
        """
        with free as (
            select id from {jobs}
            where id = any(%(ids)s::uuid[])
            for no key update skip locked  -- for this instant, to see whether it can be had
        )
        select j.id::text from {jobs} j
        where j.id = any(%(ids)s::uuid[])
          and j.id not in (select f.id from free f)
        """,
        {"ids": list(ids)},
        column,
        repeatable=True,
    )


@statement
def return_unread(jobs: Sequence[tuple[str, int]]) -> Statement[None]:
    """Queue claimed jobs (id, claim) again that were never looked at, without charging them."""
    return _write_unread(
        """
        update {jobs} j
        set status = 'queued',
            attempts = greatest(j.attempts - 1, 0),
            worker_id = null,
            started_at = null
        from unnest(%(ids)s::uuid[], %(claims)s::bigint[]) as t(id, claim)
        where j.id = t.id
          and j.claim_id = t.claim  -- the fence
          and j.status = 'active'
        """,
        jobs,
    )


@statement
def fail_unread(jobs: Sequence[tuple[str, int]], reason: str) -> Statement[None]:
    """Let claimed jobs (id, claim) fail whose rows cannot be read; what follows from that is left to the sweep."""
    return _write_unread(
        """
        with ended as (
            update {jobs} j
            set status = 'failed',
                error = %(reason)s,
                worker_id = null,
                completed_at = now(),
                expires_at = null
            from unnest(%(ids)s::uuid[], %(claims)s::bigint[]) as t(id, claim)
            where j.id = t.id
              and j.claim_id = t.claim  -- the fence
              and j.status in ('active', 'aborting')
            returning j.id, j.attempts, j.awaited
        ), recorded as (
            insert into {executions} (job_id, attempt, status, completed_at, error)
            select id, attempts, 'failed', now(), %(reason)s from ended
        )
        select pg_notify({done}, id::text) from ended where awaited
        """,
        jobs,
        reason=reason,
    )


def _write_unread(sql: str, jobs: Sequence[tuple[str, int]], **params: Any) -> Statement[None]:
    ids, claims = [job[0] for job in jobs], [job[1] for job in jobs]
    return Statement(sql, {"ids": ids, "claims": claims, **params}, nothing, repeatable=True)


@statement
def restart_clocks(jobs: Sequence[tuple[str, int]]) -> Statement[None]:
    """Let the timeout of claimed jobs (id, claim) that have not begun count from now."""
    return Statement(
        """
        update {jobs} j
        set started_at = now()
        from unnest(%(ids)s::uuid[], %(claims)s::bigint[]) as t(id, claim)
        where j.id = t.id
          and j.claim_id = t.claim  -- the fence
          and j.status in ('active', 'aborting')
        """,
        {"ids": [job[0] for job in jobs], "claims": [job[1] for job in jobs]},
        nothing,
        repeatable=True,
    )


@statement
def aborting(ids: Sequence[str]) -> Statement[list[str]]:
    """Say which of these running jobs somebody wants aborted."""
    return Statement(
        "select id::text from {jobs} where id = any(%(ids)s::uuid[]) and status = 'aborting'",
        {"ids": list(ids)},
        column,
        repeatable=True,
    )


@statement
def touch(jobs: Sequence[tuple[str, int]]) -> Statement[list[str]]:
    """Renew the heartbeat of running jobs (id, claim); the ids that are still theirs come back."""
    return Statement(
        """
        update {jobs} j
        set touched_at = now()
        from unnest(%(ids)s::uuid[], %(claims)s::bigint[]) as t(id, claim)
        where j.id = t.id
          and j.claim_id = t.claim  -- the fence
          and j.status in ('active', 'aborting')
        returning j.id::text
        """,
        {"ids": [job[0] for job in jobs], "claims": [job[1] for job in jobs]},
        column,
        repeatable=True,
    )


@statement
def begin(jobs: Sequence[tuple[str, int]]) -> Statement[list[str]]:
    """Write down that these jobs (id, claim) begin now; the ids of those that may come back."""
    return Statement(
        """
        update {jobs} j
        set watched = t.claim,
            started_at = now(),
            touched_at = now()
        from unnest(%(ids)s::uuid[], %(claims)s::bigint[]) as t(id, claim)
        where j.id = t.id
          and j.claim_id = t.claim  -- the fence
          and j.status = 'active'
        returning j.id::text
        """,
        {"ids": [job[0] for job in jobs], "claims": [job[1] for job in jobs]},
        column,
        repeatable=True,
    )


@statement
def progress(job_id: str, claim_id: int, value: str) -> Statement[list[str]]:
    """Store the progress (JSON text) of a running job, which also renews its heartbeat."""
    return Statement(
        """
        update {jobs}
        set progress = %(value)s::jsonb,
            touched_at = now()
        where id = %(id)s
          and claim_id = %(claim)s  -- the fence
          and status in ('active', 'aborting')
        returning id::text
        """,
        {"id": job_id, "claim": claim_id, "value": value},
        column,
        repeatable=True,
    )
