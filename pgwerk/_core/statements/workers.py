"""Workers: their rows, who sleeps, who died."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pgwerk._core.operation import Rows, Statement, column, nothing, statement
from pgwerk._core.statements.columns import to_json
from pgwerk._core.statements.times import EPOCH, epoch, moment


@dataclass(frozen=True)
class WorkerInfo:
    """A worker's row."""

    id: str
    name: str
    queue: str
    status: str
    metadata: dict[str, Any]
    heartbeat_at: datetime
    started_at: datetime
    expires_at: datetime | None
    active: int = 0
    """Jobs it holds now."""


@statement
def register(
    worker: str, name: str, queues: Sequence[str], metadata: Mapping[str, Any], live: float
) -> Statement[None]:
    """Write a worker's row; it counts as dead after *live* seconds without a heartbeat."""
    return Statement(
        """
        insert into {worker} (id, name, queue, metadata, expires_at)
        values (%(id)s, %(name)s, %(queue)s, %(metadata)s::jsonb, now() + %(live)s * interval '1 second')
        on conflict (id) do update
        set status = 'active', heartbeat_at = now(), expires_at = excluded.expires_at, metadata = excluded.metadata
        """,
        {
            "id": worker,
            "name": name,
            "queue": ",".join(queues),
            "metadata": to_json(dict(metadata)),
            "live": live,
        },
        nothing,
        repeatable=True,
    )


class Beat(NamedTuple):
    """The answer to a heartbeat."""

    known: bool
    """Whether the row was still there; if not, register again."""
    next_expiry: float | None
    """Seconds until the next other worker counts as dead, if it sends no heartbeat."""
    idle: bool
    """Whether producers think that it sleeps."""


@statement
def heartbeat(worker: str, live: float) -> Statement[Beat]:
    """Say that a worker lives."""
    return Statement(
        """
        with beat as (
            update {worker}
            set heartbeat_at = now(), status = 'active', expires_at = now() + %(live)s * interval '1 second',
                metadata = metadata - 'silent_at'
            where id = %(id)s
              and status <> 'stopped'  -- one that arrives late must not undo the goodbye
            returning id
        )
        select exists (select from beat), (
            select extract(epoch from min(expires_at) - now())::double precision
            from {worker}
            where id <> %(id)s and status = 'active'),
            exists (select from {idle} where worker_id = %(id)s)
        """,
        {"id": worker, "live": live},
        lambda rows: Beat(*rows[0]),
        repeatable=True,
    )


@statement
def renew(workers: Sequence[str], live: float) -> Statement[None]:
    """Send heartbeats on behalf of workers that cannot; skips workers that left or are already marked dead."""
    return Statement(
        """
        update {worker}
        set heartbeat_at = now(), expires_at = now() + %(live)s * interval '1 second',
            metadata = metadata - 'silent_at'
        where id = any(%(ids)s::uuid[]) and status = 'active'
        """,
        {"ids": list(workers), "live": live},
        nothing,
        repeatable=True,
    )


@statement
def leave(worker: str) -> Statement[None]:
    """Write that a worker has stopped."""
    return Statement(
        """
        with awake as (delete from {idle} where worker_id = %(id)s)
        update {worker} set status = 'stopped', heartbeat_at = now(), expires_at = now() where id = %(id)s
        """,
        {"id": worker},
        nothing,
        repeatable=True,
    )


@statement
def want_notify(worker: str) -> Statement[None]:
    """Ask producers to notify."""
    return Statement(
        "insert into {idle} (worker_id) values (%(id)s) on conflict do nothing",
        {"id": worker},
        nothing,
        repeatable=True,
    )


@statement
def stop_notify(worker: str) -> Statement[None]:
    """Tell producers that notifying is of no use: there is a backlog."""
    return Statement("delete from {idle} where worker_id = %(id)s", {"id": worker}, nothing, repeatable=True)


@statement
def prove() -> Statement[None]:
    """Send a notification that means nothing: whether it arrives shows whether others would."""
    return Statement("select pg_notify({wake}, 'p')", {}, nothing, repeatable=True)


@statement
def forget(worker: str) -> Statement[None]:
    """Delete the row of a worker whose death was reported, once nothing is left of it."""
    return Statement(
        """
        delete from {worker} w
        where w.id = %(id)s
          and w.status = 'lost'
          and not exists (select from {claims} c where c.worker_id = w.id)
        """,
        {"id": worker},
        nothing,
        repeatable=True,
    )


class LostClaim(NamedTuple):
    """A claim whose worker is gone."""

    id: int
    worker: str
    job_ids: list[str]


@statement
def lost_claims(live: float, limit: int, seen: float | None) -> Statement[list[LostClaim]]:
    """Lock claims of workers that stopped, are marked dead, or (for *live* seconds that were *seen*) are unknown.

    *seen* None: as long as Postgres has been up, in which the living register again.
    """
    return Statement(
        """
        select c.id, c.worker_id::text, array(select m::text from unnest(c.job_ids) m where m is not null)
        from {claims} c
        left join {worker} w on w.id = c.worker_id
        where w.id is not null and w.status <> 'active'
           or w.id is null
              and c.claimed_at < now() - %(live)s * interval '1 second'
              and coalesce(%(seen)s::double precision,
                           extract(epoch from now() - pg_postmaster_start_time())) >= %(live)s
        order by c.id
        limit %(limit)s
        for update of c skip locked  -- another worker recovers it already
        """,
        {"live": live, "limit": limit, "seen": seen},
        lambda rows: [LostClaim(*row) for row in rows],
    )


@statement
def claims_of(worker: str) -> Statement[list[LostClaim]]:
    """Lock the claims of one worker, known to be dead."""
    return Statement(
        """
        select id, worker_id::text, array(select m::text from unnest(job_ids) m where m is not null)
        from {claims}
        where worker_id = %(worker)s
        order by id
        for update skip locked  -- another worker recovers it already
        """,
        {"worker": worker},
        lambda rows: [LostClaim(*row) for row in rows],
    )


# A worker has this long to be heard of again, counted from its last heartbeat or from when somebody could first look.
_PATIENCE = "greatest(%(live)s, extract(epoch from w.expires_at - w.heartbeat_at))"
# When its silence was first seen by this server process; what was seen before an outage says nothing about now.
_SILENT_AT = """(case when jsonb_typeof(w.metadata -> 'silent_at') = 'number'
                       and (w.metadata ->> 'silent_at')::numeric >= extract(epoch from pg_postmaster_start_time())
                  then (w.metadata ->> 'silent_at')::numeric end)"""


@statement
def mark_dead(workers: Sequence[str], live: float = 0.0, seen: float = math.inf) -> Statement[list[str]]:
    """Mark workers as dead: the given ones, and all that were silent while somebody was there to hear them.

    The caller was there, and Postgres too, for the last *seen* seconds. Where that is too short, it is noted in the
    worker's row that it was silent, and whoever finds it still silent when its time is over takes it for dead.
    """
    return Statement(
        f"""
        with silent as (
            select w.id,
                   %(seen)s::double precision >= {_PATIENCE}
                   or {_SILENT_AT} + {_PATIENCE} < extract(epoch from now()) as dead,
                   {_SILENT_AT} is null as new
            from {{worker}} w
            where w.status = 'active'
              and w.expires_at < now()
        ), dead as (
            update {{worker}} w
            set status = 'lost', expires_at = least(w.expires_at, now())
            where w.status = 'active'
              and (w.expires_at < now() and w.id in (select s.id from silent s where s.dead)
                   or w.id = any(%(ids)s::uuid[]))
            returning w.id, w.name
        ), noted as (
            update {{worker}} w
            set metadata = w.metadata || jsonb_build_object('silent_at', extract(epoch from now()))
            from silent s
            where w.id = s.id
              and w.expires_at < now()
              and s.new
              and s.dead is not true
              and w.id <> all(%(ids)s::uuid[])
        ), awake as (
            delete from {{idle}} i
            where not exists (
                      select from {{worker}} w
                      where w.id = i.worker_id and w.status = 'active' and w.expires_at >= now())
               or i.worker_id = any(%(ids)s::uuid[])
        )
        select name from dead
        """,
        {"ids": list(workers), "live": live, "seen": seen},
        column,
        repeatable=True,
    )


@statement
def living(worker: str) -> Statement[bool]:
    """Read whether this worker counts as alive."""
    return Statement(
        "select 1 from {worker} where id = %(id)s and status = 'active' and expires_at >= now()",
        {"id": worker},
        bool,
        repeatable=True,
    )


@statement
def roster() -> Statement[list[WorkerInfo]]:
    """List workers, the living first."""
    return Statement(
        f"""
        select w.id::text, w.name, w.queue,
               case when w.status = 'active' and w.expires_at < now() then 'lost' else w.status end as status,
               w.metadata - 'silent_at', {epoch("w.heartbeat_at")}, {epoch("w.started_at")}, {epoch("w.expires_at")},
               (select count(*) from {{worker_jobs}} c where c.worker_id = w.id)
        from {{worker}} w
        order by status, w.started_at desc, w.id
        """,
        {},
        _read_roster,
        repeatable=True,
    )


def _read_roster(rows: Rows) -> list[WorkerInfo]:
    return [_worker_info(*row) for row in rows]


def _worker_info(
    id_: str, name: str, queue: str, status: str, metadata: dict[str, Any],
    heartbeat: str, started: str, expires: str | None, active: int,
) -> WorkerInfo:  # fmt: skip
    return WorkerInfo(
        id_,
        name,
        queue,
        status,
        metadata,
        moment(heartbeat) or EPOCH,
        moment(started) or EPOCH,
        moment(expires),
        active,
    )
