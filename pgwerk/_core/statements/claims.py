"""Claiming: a batch of jobs in one statement, and one job by itself."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from typing import Any

from pgwerk._core import lenient
from pgwerk._core.claim import Claim, Claimed
from pgwerk._core.cursor import Place, Range
from pgwerk._core.job import FailureMode, Job, JobStatus
from pgwerk._core.operation import Row, Rows, Statement, statement
from pgwerk._core.statements.arrays import array
from pgwerk._core.statements.columns import INSERTED
from pgwerk._core.statements.times import epoch, moment

_BEYOND = 2**31 - 1
_FRONT: Place = (-_BEYOND, datetime(1, 1, 1, tzinfo=UTC), "00000000-0000-0000-0000-000000000000")

_ORDER = "(-priority::integer), scheduled_at, id"

OPTIONS = (
    "key", "meta", "progress", "group_key", "heartbeat_secs", "ttl", "result_ttl", "failure_ttl", "retry_intervals",
    "no_retry", "on_success", "on_failure", "on_stopped", "callback_of", "repeat_remaining", "schedule_name",
    "lost", "max_lost", "watched", "interrupted",
)  # fmt: skip
"""A job that has none of these, and whose row stays when it fails, is bare."""

# Out of the row itself, not out of a copy of all its columns.
_CLAIMED_LIST = """
    returning
       j.id::text, j.function, j.queue, j.priority, j.attempts, j.max_attempts, j.claim_id, j.payload::text as payload,
       j.timeout_secs, j.scheduled_at, j.enqueued_at, j.started_at,
       case when row(${options}) is null
                 and j.failure_mode = 'hold'
            then null
            else (to_jsonb(j) - '{payload,result,error}'::text[])::text
       end as extras
"""
_CLAIMED_LIST = _CLAIMED_LIST.replace("${options}", ", ".join(f"j.{name}" for name in OPTIONS))

_LOOK = """
    -- One index range per queue, or two around a cursor, each walked with the lock inside, then put in order again.
    -- Rows that are locked here and not taken below are free again when this statement commits.
    select ready.*${nth}
    from unnest(%(queues)s::text[], %(places)s::integer[], %(ranks)s::integer[], %(times)s::timestamptz[],
                %(ids)s::uuid[], %(belows)s::integer[]) as q(name, place, first_rank, first_time, first_id, below)
    cross join lateral (
        select j.id, j.priority, j.scheduled_at, j.group_key, j.group_limit
        from {jobs} j
        where j.queue = q.name
          and (-j.priority::integer, j.scheduled_at, j.id) >= (q.first_rank, q.first_time, q.first_id)
          and (-j.priority::integer) < q.below
          and j.lane = 'ready'
          and j.status = 'queued'
          and j.scheduled_at <= now()
          and (j.expires_at is null or j.expires_at > now())
        order by (-j.priority::integer), j.scheduled_at, j.id
        limit %(each)s
        for no key update skip locked  -- another claim's rows are passed over, never waited for
    ) ready
    where not exists (select from {queues} p where p.name = q.name and p.paused_at is not null)
"""
_NTH = "row_number() over (partition by q.place order by (-ready.priority::integer), ready.scheduled_at, ready.id)"
_FIRST = """
with picked as materialized (
${look}
    order by ${turn}(-ready.priority::integer), ready.scheduled_at, ready.id
    limit %(count)s
)"""
_FIRST_OF_SOME = """
with looked as materialized (
${look}
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
)"""

_CLAIM = """, member as (
    select id, group_key, coalesce(group_limit, 1) as slots,
           row_number() over (partition by group_key order by ${order}) as turn
    from picked
    where group_key is not null
), vacancy as (
    select g.group_key, s.slot, row_number() over (partition by g.group_key order by s.slot) as turn
    from (select group_key, max(slots) as slots from member group by group_key) g
    cross join lateral generate_series(1, g.slots) as s(slot)
    where not exists (select from {permits} p where p.key = g.group_key and p.slot = s.slot)
), granted as (
    -- The primary key arbitrates between claims; in key order, so that two claims cannot deadlock.
    insert into {permits} (key, slot, job_id)
    select m.group_key, v.slot, m.id
    from member m
    join vacancy v on v.group_key = m.group_key and v.turn = m.turn and v.slot <= m.slots
    order by m.group_key, v.slot
    on conflict do nothing
    returning job_id
), denied as (
    -- A member without a permit leaves the claim index until one is released.
    update {jobs} j
    set blocked = true
    where j.id = any (array(select id from member except select job_id from granted))
    returning j.id, j.group_key
), taken as (
    select id from picked
    where group_key is null or id in (select job_id from granted)
), claim as (
    insert into {claims} (worker_id, job_ids)
    select %(worker)s, array_agg(id) from taken having count(*) > 0
    returning id
), claimed as (
    update {jobs} j
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
    ${claimed}
)
select * from claimed
union all
select null, group_key, null, null, null, null, null, null, null, null, null, null, null from denied
"""
_CLAIM = _CLAIM.replace("${order}", _ORDER).replace("${claimed}", _CLAIMED_LIST)
_FIRST = _FIRST.replace("${look}", _LOOK.strip("\n").replace("${nth}", ""))
_BY_PRIORITY = _FIRST.replace("${turn}", "") + _CLAIM
_BY_PRIORITY_OF_SOME = (
    _FIRST_OF_SOME.replace("${look}", _LOOK.strip("\n").replace("${nth}", f", {_NTH} as nth")) + _CLAIM
)
# The first of each queue, then the second of each …; queues in the order they are given.
_IN_TURNS = _FIRST.replace("${turn}", f"{_NTH}, q.place, ") + _CLAIM
_SKIPPING = {
    text: text.replace(
        "and j.scheduled_at <= now()\n", "and j.scheduled_at <= now()\n          and j.id <> all(%(skip)s::uuid[])\n"
    )
    for text in (_BY_PRIORITY, _BY_PRIORITY_OF_SOME, _IN_TURNS)
}
"""The same for a worker that met jobs which nobody can claim."""

_TIMES = ("scheduled_at", "enqueued_at", "started_at", "completed_at", "touched_at", "expires_at")
_SPECIAL = (
    "group_key", "on_success", "on_failure", "on_stopped", "callback_of", "repeat_remaining",
)  # fmt: skip
"""A job with one of these ends in a transaction of several statements."""


@statement
def claim(
    where: Sequence[str | Range],
    count: int,
    worker: str,
    *,
    in_turns: bool = False,
    each: int | None = None,
    skip: Sequence[str] = (),
) -> Statement[Claim]:
    """Claim up to *count* jobs: mark them active, count the attempt, in the order they should run.

    *where*: queues, or parts of them. By priority over all of them; or *in_turns*, one of each queue after the
    other, in the order given. What is looked at is locked, though not all of it taken: at most *each* of any queue.
    By priority, those may then be fewer than there are: up to the last of which it is certain that it comes next.
    *skip*: ids of jobs that are passed over.
    """
    ranges = [one if isinstance(one, Range) else Range(one, place) for place, one in enumerate(where)]
    firsts = [one.first or _FRONT for one in ranges]
    params = {
        "queues": [one.queue for one in ranges],
        "places": [one.place for one in ranges],
        "ranks": [rank for rank, _, _ in firsts],
        "times": [time for _, time, _ in firsts],
        "ids": array(id_ for _, _, id_ in firsts),
        "belows": [_BEYOND if one.below is None else one.below for one in ranges],
        "count": count,
        "each": count if each is None else each,
        "worker": worker,
    }
    queues = tuple(dict.fromkeys(one.queue for one in ranges))
    text = _IN_TURNS if in_turns else _BY_PRIORITY if each is None else _BY_PRIORITY_OF_SOME
    if skip:
        text, params["skip"] = _SKIPPING[text], array(skip)
    if in_turns:
        return Statement(text, params, partial(_read_in_turns, worker, queues, each), binary=True)
    if each is not None:
        return Statement(text, params, partial(_read_claim, worker, each=each), binary=True)
    return Statement(text, params, partial(_read_claim, worker), binary=True)


@statement
def claim_one(job_id: str, worker: str) -> Statement[Claimed | None]:
    """Claim one job that has not started, whenever it is due, for a run outside of any worker, which begins at once."""

    def read(rows: Rows) -> Claimed | None:
        if not rows:
            return None
        return _read_claimed(partial(_bare_job, worker), (*rows[0][:9], *map(moment, rows[0][-3:]), rows[0][12]))

    return Statement(
        f"""
        with claim as (
            insert into {{claims}} (worker_id, job_ids)
            select %(worker)s, array[j.id] from {{jobs}} j where j.id = %(id)s and j.status in ('queued', 'scheduled')
            returning id
        ), claimed as (
            update {{jobs}} j
            set status = 'active',
                attempts = j.attempts + 1,
                claim_id = claim.id,
                watched = claim.id,
                worker_id = %(worker)s,
                started_at = now(),
                touched_at = now(),
                expires_at = null
            from claim
            where j.id = %(id)s
              and j.status in ('queued', 'scheduled')
            {_CLAIMED_LIST}
        )
        select c.*, {epoch("c.scheduled_at")}, {epoch("c.enqueued_at")}, {epoch("c.started_at")}
        from claimed c
        """,
        {"worker": worker, "id": job_id},
        read,
    )


def _read_claim(
    worker: str, rows: Rows, each: int | None = None, order: Callable[[list[Row]], list[Row]] | None = None
) -> Claim:
    make = partial(_bare_job, worker)
    mine = sorted((row for row in rows if row[0] is not None), key=_place)
    last = {row[2]: row for row in mine}
    passed_over = len(rows) - len(mine)
    ordered = order(mine) if order is not None else mine
    return Claim(
        len(mine),
        lambda: [_read_claimed(make, row) for row in ordered],
        last={queue: _place(row) for queue, row in last.items()},
        last_queue=ordered[-1][2] if ordered else None,
        largest=max(Counter(row[2] for row in mine).values()) if len(last) > 1 else len(mine),
        denied=sorted({row[1] for row in rows if row[0] is None}) if passed_over else [],
        passed_over=passed_over,
        each=each,
    )


def _read_in_turns(worker: str, queues: Sequence[str], each: int | None, rows: Rows) -> Claim:
    return _read_claim(worker, rows, each, partial(_one_of_each, queues))


def _one_of_each(queues: Sequence[str], rows: list[Row]) -> list[Row]:
    lanes: dict[str, list[Row]] = {queue: [] for queue in queues}
    for row in rows:
        lanes[row[2]].append(row)
    return [row for turn in zip_longest(*lanes.values()) for row in turn if row is not None]


def _place(row: Row) -> Place:
    """Where a job stands in the order of its queue."""
    return (-row[3], row[9], row[0])


def _read_claimed(make: Callable[[Row], Job], row: Row) -> Claimed:
    extras = row[12]
    if extras is None:
        return Claimed(row[0], row[1], row[6], row[7], row[8], True, True, make, row)
    values = _values(row)
    plain = _add_extras(values, lenient.loads(extras))
    return Claimed(row[0], row[1], row[6], row[7], row[8], plain, False, make, row, Job.of(values))


def _bare_job(worker: str, row: Row) -> Job:
    values = _values(row)
    return Job.of(values | {"worker_id": worker, "touched_at": values["started_at"]})


def _values(row: Row) -> dict[str, Any]:
    """What is in the columns of the list above, by name."""
    (id_, function, queue, priority, attempts, max_attempts, claim_id, _payload,
     timeout, scheduled_at, enqueued_at, started_at, _extras) = row  # fmt: skip
    return {
        "id": id_,
        "function": function,
        "queue": queue,
        "status": JobStatus.ACTIVE,
        "priority": priority,
        "attempts": attempts,
        "max_attempts": max_attempts,
        "claim_id": claim_id,
        "timeout_secs": timeout,
        "scheduled_at": scheduled_at,
        "enqueued_at": enqueued_at,
        "started_at": started_at,
    }


_JOB_FIELDS = frozenset(Job.__dataclass_fields__)
_SECONDS = frozenset(name for name, kind in INSERTED.items() if kind == "double precision")


def _add_extras(values: dict[str, Any], extras: dict[str, Any]) -> bool:
    for name, value in extras.items():
        if name in _JOB_FIELDS and name not in values and value is not None:
            if name in _TIMES:
                value = lenient.moment(value)  # noqa: PLW2901  # as its column would come
            elif name in _SECONDS:
                value = float(value)  # noqa: PLW2901  # JSON makes no difference between 1 and 1.0
            values[name] = value
    mode = FailureMode(values.get("failure_mode", FailureMode.HOLD))
    values["failure_mode"] = mode
    return is_plain(values)


def is_plain(values: Mapping[str, Any]) -> bool:
    """Whether a job with these values can be closed in a batch, see `Claimed`."""
    return values["failure_mode"] == FailureMode.HOLD and not any(values.get(name) for name in _SPECIAL)
