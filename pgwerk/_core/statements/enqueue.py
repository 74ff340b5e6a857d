"""Inserting jobs, and telling idle workers."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from pgwerk._core.job import JobStatus
from pgwerk._core.operation import Rows, Statement, column, nothing, statement
from pgwerk._core.statements.copying import copied, may_run_at_once
from pgwerk._core.statements.insert_texts import bulk_columns, insert_any_sql, insert_sql, insert_uniform_sql
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
    return Statement(insert_sql(tuple(job)), {**job, "tell": always_tell}, _read_inserted, texts=True)


@statement
def insert_many(jobs: Sequence[Values], *, always_tell: bool) -> Statement[list[Inserted]]:
    """Insert jobs; what was inserted comes back.

    By COPY where that can be (see `copying`), otherwise by one INSERT. Of jobs that may run at once, all come back or,
    when some were there before, none (see `inserted_before`): then the answer is one row, not one for each.
    """
    insert = partial(_insert_many, jobs, always_tell=always_tell)
    copy = copied(jobs, insert, always_tell=always_tell)
    if copy is None:
        return insert()
    return Statement("", {}, partial(_read_all_inserted, [job["id"] for job in jobs]), copy=copy)


def _insert_many(jobs: Sequence[Values], *, always_tell: bool) -> Statement[list[Inserted]]:
    columns, params = bulk_columns(jobs)
    if may_run_at_once([column.name for column in columns]):
        read = partial(_read_all_inserted, [job["id"] for job in jobs])
        return Statement(insert_uniform_sql(columns), {**params, "tell": always_tell}, read)
    return Statement(insert_any_sql(columns), {**params, "tell": always_tell}, _read_inserted)


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
