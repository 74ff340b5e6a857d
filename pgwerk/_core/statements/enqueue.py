"""Inserting jobs, and telling idle workers."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, NamedTuple

from pgwerk._core.job import JobStatus
from pgwerk._core.operation import Rows, Statement, column, nothing, statement
from pgwerk._core.statements.arrays import array
from pgwerk._core.statements.columns import INSERTED, JSON_COLUMNS
from pgwerk._core.statements.copying import SCHEDULING, copied, may_run_at_once
from pgwerk._core.statements.times import EPOCH, epoch, moment

Values = dict[str, Any]
"""A job to insert: encoded values by column, only those that differ from the column's default, and besides
`delay` (seconds), `at` (datetime) and `waiting` (True when it must wait for its dependencies)."""


class Inserted(NamedTuple):
    """What the database decided about a new row."""

    id: str
    status: JobStatus
    scheduled_at: datetime
    enqueued_at: datetime


@statement
def insert(job: Values, *, always_tell: bool) -> Statement[list[Inserted]]:
    """Insert one job; no row comes back when its key (or its id) exists.

    Idle workers are told; with *always_tell* whoever listens (a commit at an unknown time
    cannot rely on who is idle now).
    """
    sql = _insert_sql(tuple(job))
    return Statement(sql, {**job, "tell": always_tell}, _read_inserted, texts=True)


@statement
def insert_many(jobs: Sequence[Values], *, always_tell: bool) -> Statement[list[Inserted]]:
    """Insert jobs in one statement; what was inserted comes back.

    Of jobs that may run at once: all of them or, when some were there before, nothing (see `inserted_before`).
    """
    insert = partial(_insert_many, jobs, always_tell=always_tell)
    copy = copied(jobs, insert, always_tell=always_tell)
    if copy is None:
        return insert()
    return Statement("", {}, partial(_read_all_inserted, [job["id"] for job in jobs]), copy=copy)


def _insert_many(jobs: Sequence[Values], *, always_tell: bool) -> Statement[list[Inserted]]:
    names = sorted({name for job in jobs for name in job})
    params: dict[str, Any] = {"tell": always_tell}
    kinds: list[tuple[str, str]] = []
    for name in names:
        kind, params[name] = _packed(name, [job.get(name) for job in jobs])
        kinds.append((name, kind))
    if all(kind == "same" for _, kind in kinds):
        # At least one column has to say how many there are.
        params[names[0]] = [job.get(names[0]) for job in jobs]
        kinds[0] = (names[0], "list")
    read: Callable[[Rows], list[Inserted]] = _read_inserted
    if may_run_at_once(names):
        read = partial(_read_all_inserted, [job["id"] for job in jobs])
    return Statement(_insert_many_sql(tuple(kinds)), params, read)


def _packed(name: str, values: list[Any]) -> tuple[str, Any]:
    """The cheapest way to hand over a column: one value for all, the text of an array or of a JSON array, or a list."""
    first = values[0]
    if name != "id" and all(value is first or value == first for value in values):
        return "same", first
    if name in JSON_COLUMNS and None not in values:
        return "json", f"[{','.join(values)}]"
    if name == "id":
        return "array", array(values)
    return "list", values


def _read_inserted(rows: Rows) -> list[Inserted]:
    return [_inserted(*row[:4]) for row in rows]


def _inserted(id_: str, status: str, scheduled: str, enqueued: str) -> Inserted:
    at = _time(enqueued)
    return Inserted(id_, JobStatus(status), at if scheduled == enqueued else _time(scheduled), at)


def _time(text: str) -> datetime:
    return moment(text) or EPOCH


def _read_all_inserted(ids: Sequence[str], rows: Rows) -> list[Inserted]:
    """Read how many were inserted, and when; a row for each would say the same."""
    how_many, text = rows[0][:2]
    if how_many != len(ids):
        return []
    now = _time(text)
    return [Inserted(id_, JobStatus.QUEUED, now, now) for id_ in ids]


@statement
def inserted_before(*ids: str) -> Statement[list[Inserted]]:
    """Read what `insert` answered for these ids, if they are there."""
    return Statement(
        f"select id::text, status, {epoch('scheduled_at')}, {epoch('enqueued_at')}"
        " from {jobs} where id = any(%(ids)s::uuid[])",
        {"ids": list(ids)},
        _read_inserted,
        repeatable=True,
    )


@statement
def existing(ids: Sequence[str]) -> Statement[list[str]]:
    """Say which of these ids have a row."""
    return Statement(
        "select id::text from {jobs} where id = any(%(ids)s::uuid[])",
        {"ids": list(ids)},
        column,
        repeatable=True,
    )


@statement
def link(edges: Sequence[tuple[str, str, bool]]) -> Statement[None]:
    """Insert dependencies: (job, the job it depends on, whether that one may fail)."""
    return Statement(
        """
        insert into {job_deps} (job_id, depends_on, allow_failure)
        select * from unnest(%(jobs)s::uuid[], %(parents)s::uuid[], %(allow)s::boolean[])
        on conflict (job_id, depends_on) do nothing
        """,
        {
            "jobs": [edge[0] for edge in edges],
            "parents": [edge[1] for edge in edges],
            "allow": [edge[2] for edge in edges],
        },
        nothing,
    )


@statement
def tell_waiting(ids: Sequence[str]) -> Statement[None]:
    """Ask whoever listens to look at these waiting jobs once this transaction has committed."""
    return Statement(
        """
        select pg_notify({wake}, 'w' || string_agg(id, ','))
        -- Messages well under the limit of 8000 bytes.
        from (select id, (row_number() over ()) / 150 as part from unnest(%(ids)s::text[]) as t(id)) w
        group by part
        """,
        {"ids": list(ids)},
        nothing,
    )


# The texts are made from constants; one per shape of job that an application uses. --------------------

_TELL_ONE = (
    f"""
    returning id::text, status, {epoch("scheduled_at")}, {epoch("enqueued_at")},"""
    """
              case when %(tell)s::boolean or exists (select from {idle}) then
                  case status
                      when 'queued' then pg_notify({wake}, 'q' || queue)
                      when 'scheduled' then pg_notify({wake}, 'd' || extract(epoch from scheduled_at - enqueued_at))
                  end
              end
"""
)


@lru_cache(maxsize=256)
def _insert_sql(names: tuple[str, ...]) -> str:
    columns = {name: f"%({name})s::{INSERTED[name]}" for name in names if name in INSERTED}
    columns |= _computed(names, {name: f"%({name})s" for name in names})
    return (
        f"    insert into {{jobs}} ({', '.join(columns)})\n"
        f"    values ({', '.join(columns.values())})\n"
        "    on conflict do nothing" + _TELL_ONE
    )


_EXTRA = {"delay": "double precision", "at": "timestamptz", "waiting": "boolean"}

_DEFAULTS = {"queue": "'default'", "priority": "0", "max_attempts": "1", "failure_mode": "'hold'"}
"""For jobs that do not set a column that others of the same statement do."""


@lru_cache(maxsize=256)
def _insert_many_sql(kinds: tuple[tuple[str, str], ...]) -> str:
    types = {**INSERTED, **_EXTRA}
    value = {name: f"%({name})s::{types[name]}" if kind == "same" else f"t.{name}" for name, kind in kinds}
    columns = {
        name: f"coalesce({text}, {_DEFAULTS[name]})" if name in _DEFAULTS else text
        for name, text in value.items()
        if name in INSERTED
    }
    columns |= _computed(tuple(value), value)
    arrays = [name for name, kind in kinds if kind in ("list", "array")]
    texts = [name for name, kind in kinds if kind == "json"]
    sources = []
    if arrays:
        sources.append(f"unnest({', '.join(f'%({name})s::{types[name]}[]' for name in arrays)})")
    sources += [f"jsonb_array_elements(%({name})s::jsonb)" for name in texts]
    answer = f"n.id::text, n.status, {epoch('n.scheduled_at')}, {epoch('n.enqueued_at')}"
    if may_run_at_once(value):
        answer = f"count(*), {epoch('min(n.enqueued_at)')}"
    return (
        f"with new as (\n    insert into {{jobs}} ({', '.join(columns)})\n"
        f"    select {', '.join(columns.values())}\n"
        f"    from rows from ({', '.join(sources)}) as t({', '.join(arrays + texts)})\n"
        "    on conflict do nothing\n"
        "    returning id, status, queue, scheduled_at, enqueued_at\n"
        "), told as (\n"
        "    select pg_notify({wake}, message)\n"
        "    from (select distinct 'q' || queue from new where status = 'queued'\n"
        "          union all\n"
        "          select 'd' || extract(epoch from min(scheduled_at) - min(enqueued_at)) from new\n"
        "          where status = 'scheduled' having count(*) > 0) as t(message)\n"
        "    where %(tell)s or exists (select from {idle})\n"
        ")\n"
        f"select {answer}, (select count(*) from told)\n"
        "from new n"
    )


def _computed(names: tuple[str, ...], value: dict[str, str]) -> dict[str, str]:
    """The columns that follow from delay, at, waiting and ttl; none for a plain job."""
    if not SCHEDULING & set(names):
        return {}
    delay = f"coalesce({value['delay']}::double precision, 0)" if "delay" in names else "0"
    due = f"statement_timestamp() + {delay} * interval '1 second'"
    if "at" in names:
        due = f"coalesce({value['at']}::timestamptz, {due})"
    status = f"case when {due} > statement_timestamp() then 'scheduled' else 'queued' end"
    if "waiting" in names:
        status = f"case when {value['waiting']}::boolean then 'waiting' else {status} end"
    columns = {"status": status, "scheduled_at": due}
    if "ttl" in names:
        # Counted from when it may start; a dependent's from its release.
        start = f"greatest({due}, statement_timestamp())" if "at" in names else due
        expires = f"{start} + {value['ttl']}::double precision * interval '1 second'"
        if "waiting" in names:
            expires = f"case when {value['waiting']}::boolean then null else {expires} end"
        columns["expires_at"] = expires
    return columns
