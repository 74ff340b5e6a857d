"""The texts of a claim: which jobs are picked, in three ways, and what is done with them, always the same.

Each is `with picked as (…)` of its own, followed by the common part. Braces name tables, `%(…)s` parameters; the only
thing that is put in when this module is imported is the walk through one queue, with or without jobs to pass over.
"""

OPTIONS = (
    "key", "meta", "progress", "group_key", "heartbeat_secs", "ttl", "result_ttl", "failure_ttl", "retry_intervals",
    "no_retry", "on_success", "on_failure", "on_stopped", "callback_of", "repeat_remaining", "schedule_name",
    "lost", "max_lost", "watched", "interrupted",
)  # fmt: skip
"""A job that has none of these, and whose row stays when it fails, is bare."""


# Out of the row itself, not out of a copy of all its columns.
CLAIMED_LIST = f"""
    returning
       j.id::text, j.function, j.queue, j.priority, j.attempts, j.max_attempts, j.claim_id, j.payload::text as payload,
       j.timeout_secs, j.scheduled_at, j.enqueued_at, j.started_at,
       case when row({", ".join(f"j.{name}" for name in OPTIONS)}) is null
                 and j.failure_mode = 'hold'
            then null
            else (to_jsonb(j) - '{{payload,result,error}}'::text[])::text
       end as extras
"""
"""What comes back of a claimed job."""


def _walk(*, skipping: bool) -> str:
    """The first jobs of one queue, or of its part around a cursor: one range of the claim index, locked as it is read.

    Rows that are locked here and not taken later are free again when the statement commits.
    """
    skip = "and j.id <> all(%(skip)s::uuid[])" if skipping else ""
    return f"""
        select j.id, j.priority, j.scheduled_at, j.group_key, j.group_limit
        from {{jobs}} j
        where j.queue = q.name
          and (-j.priority::integer, j.scheduled_at, j.id) >= (q.first_rank, q.first_time, q.first_id)
          and (-j.priority::integer) < q.below
          and j.lane = 'ready'
          and j.status = 'queued'
          and j.scheduled_at <= now()
          {skip}
          and (j.expires_at is null or j.expires_at > now())
        order by (-j.priority::integer), j.scheduled_at, j.id
        limit %(each)s
        for no key update skip locked  -- another claim's rows are passed over, never waited for
    """


def _by_priority(walk: str) -> str:
    """The first of all queues together."""
    return f"""
with picked as materialized (
    select ready.*
    from unnest(%(queues)s::text[], %(places)s::integer[], %(ranks)s::integer[], %(times)s::timestamptz[],
                %(ids)s::uuid[], %(belows)s::integer[]) as q(name, place, first_rank, first_time, first_id, below)
    cross join lateral ({walk}) ready
    where not exists (select from {{queues}} p where p.name = q.name and p.paused_at is not null)
    order by (-ready.priority::integer), ready.scheduled_at, ready.id
    limit %(count)s
){_TAKE}"""


def _by_priority_of_some(walk: str) -> str:
    """The first of all queues together, as far as that is certain when only *each* of every queue are looked at."""
    return f"""
with looked as materialized (
    select ready.*,
           row_number() over (partition by q.place
                              order by (-ready.priority::integer), ready.scheduled_at, ready.id) as nth
    from unnest(%(queues)s::text[], %(places)s::integer[], %(ranks)s::integer[], %(times)s::timestamptz[],
                %(ids)s::uuid[], %(belows)s::integer[]) as q(name, place, first_rank, first_time, first_id, below)
    cross join lateral ({walk}) ready
    where not exists (select from {{queues}} p where p.name = q.name and p.paused_at is not null)
), picked as materialized (
    select id, priority, scheduled_at, group_key, group_limit
    from looked
    -- A queue that gave as many as were looked at may have more: what comes after the last of these has to wait.
    where (-priority::integer, scheduled_at, id) <= (
        select rank, scheduled_at, id
        from (select -priority::integer, scheduled_at, id from looked where nth = %(each)s
              union all
              select 32768, 'infinity', 'ffffffff-ffff-ffff-ffff-ffffffffffff') as bound(rank, scheduled_at, id)
        order by rank, scheduled_at, id
        limit 1)
    order by (-priority::integer), scheduled_at, id
    limit %(count)s
){_TAKE}"""


def _in_turns(walk: str) -> str:
    """The first of each queue, then the second of each …; queues in the order they are given."""
    return f"""
with picked as materialized (
    select ready.*
    from unnest(%(queues)s::text[], %(places)s::integer[], %(ranks)s::integer[], %(times)s::timestamptz[],
                %(ids)s::uuid[], %(belows)s::integer[]) as q(name, place, first_rank, first_time, first_id, below)
    cross join lateral ({walk}) ready
    where not exists (select from {{queues}} p where p.name = q.name and p.paused_at is not null)
    order by row_number() over (partition by q.place
                                order by (-ready.priority::integer), ready.scheduled_at, ready.id),
             q.place, (-ready.priority::integer), ready.scheduled_at, ready.id
    limit %(count)s
){_TAKE}"""


_TAKE = f""", member as (
    select id, group_key, coalesce(group_limit, 1) as slots,
           row_number() over (partition by group_key order by (-priority::integer), scheduled_at, id) as turn
    from picked
    where group_key is not null
), vacancy as (
    select g.group_key, s.slot, row_number() over (partition by g.group_key order by s.slot) as turn
    from (select group_key, max(slots) as slots from member group by group_key) g
    cross join lateral generate_series(1, g.slots) as s(slot)
    where not exists (select from {{permits}} p where p.key = g.group_key and p.slot = s.slot)
), granted as (
    -- The primary key arbitrates between claims; in key order, so that two claims cannot deadlock.
    insert into {{permits}} (key, slot, job_id)
    select m.group_key, v.slot, m.id
    from member m
    join vacancy v on v.group_key = m.group_key and v.turn = m.turn and v.slot <= m.slots
    order by m.group_key, v.slot
    on conflict do nothing
    returning job_id
), denied as (
    -- A member without a permit leaves the claim index until one is released.
    update {{jobs}} j
    set blocked = true
    where j.id = any (array(select id from member except select job_id from granted))
    returning j.id, j.group_key
), taken as (
    select id from picked
    where group_key is null or id in (select job_id from granted)
), claim as (
    insert into {{claims}} (worker_id, job_ids)
    select %(worker)s, array_agg(id) from taken having count(*) > 0
    returning id
), claimed as (
    update {{jobs}} j
    set status = 'active',
        attempts = j.attempts + 1,
        claim_id = claim.id,
        worker_id = %(worker)s,
        started_at = now(),
        touched_at = now(),
        expires_at = null
    from claim
    where j.id = any (array(select id from taken))
      and j.status = 'queued'
    {CLAIMED_LIST}
)
select * from claimed
union all
select null, group_key, null, null, null, null, null, null, null, null, null, null, null from denied
"""
"""Permits for members of groups, and the claim of all that may run; a denied group comes back as a row of its own."""

# Each without and with jobs that are passed over.
_WALKS = (_walk(skipping=False), _walk(skipping=True))
BY_PRIORITY = tuple(map(_by_priority, _WALKS))
BY_PRIORITY_OF_SOME = tuple(map(_by_priority_of_some, _WALKS))
IN_TURNS = tuple(map(_in_turns, _WALKS))
