"""Permits of groups: given back, offered to members that wait, and found again where they leaked."""

from collections.abc import Sequence

from pgwerk._core.operation import Statement, column, statement


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
