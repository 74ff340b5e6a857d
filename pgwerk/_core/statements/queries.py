"""Reading jobs, executions and counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from pgwerk._core.job import ExecutionStatus, Job, JobExecution
from pgwerk._core.operation import Rows, Statement, column, nothing, statement
from pgwerk._core.statements.columns import SELECT_LIST, Decode, read_job
from pgwerk._core.statements.times import epoch, moment


@statement
def get(job_id: str, decode: Decode) -> Statement[Job | None]:
    """Read one job."""

    def read(rows: Rows) -> Job | None:
        return read_job(rows[0], decode) if rows else None

    return Statement(
        f"select {SELECT_LIST} from {{jobs}} j where j.id = %(id)s",
        {"id": job_id},
        read,
        repeatable=True,
    )


@statement
def get_by_key(key: str, decode: Decode) -> Statement[Job | None]:
    """Read the job that has a key."""

    def read(rows: Rows) -> Job | None:
        return read_job(rows[0], decode) if rows else None

    return Statement(
        f"select {SELECT_LIST} from {{jobs}} j where j.key = %(key)s",
        {"key": key},
        read,
        repeatable=True,
    )


@statement
def get_many(ids: Sequence[str], decode: Decode) -> Statement[dict[str, Job]]:
    """Read jobs, by id."""

    def read(rows: Rows) -> dict[str, Job]:
        jobs = [read_job(row, decode) for row in rows]
        return {job.id: job for job in jobs}

    return Statement(
        f"select {SELECT_LIST} from {{jobs}} j where j.id = any(%(ids)s::uuid[])",
        {"ids": list(ids)},
        read,
        repeatable=True,
    )


_SEARCH = """(j.function ilike %(like)s or j.queue ilike %(like)s or j.key ilike %(like)s
    or j.id::text ilike %(like)s or j.meta::text ilike %(like)s)"""


@dataclass(frozen=True)
class Filter:
    """Which jobs to list. None and () mean: whatever."""

    queues: Sequence[str] = ()
    statuses: Sequence[str] = ()
    functions: Sequence[str] = ()
    worker_id: str | None = None
    search: str | None = None
    schedule_name: str | None = None
    retried: bool | None = None
    before: str | None = None
    """The id of the last job of the page before."""

    def conditions(self) -> tuple[list[str], dict[str, Any]]:
        """The conditions that are asked for, and their parameters. The texts are constants."""
        parts: list[tuple[bool, str]] = [
            (bool(self.queues), "j.queue = any(%(queues)s::text[])"),
            (bool(self.statuses), _status_condition(self.statuses)),
            (bool(self.functions), "j.function = any(%(functions)s::text[])"),
            (self.worker_id is not None, "j.worker_id = %(worker_id)s::uuid"),
            (self.schedule_name is not None, "j.schedule_name = %(schedule_name)s"),
            (self.retried is True, "j.attempts > 1"),
            (self.retried is False, "j.attempts <= 1"),
            (self.before is not None, "j.id < %(before)s::uuid"),
            (
                bool(self.search),
                _SEARCH,
            ),
        ]
        params = {
            "queues": list(self.queues),
            "statuses": list(self.statuses),
            "functions": list(self.functions),
            "worker_id": self.worker_id,
            "schedule_name": self.schedule_name,
            "before": self.before,
            "like": f"%{_escape_like(self.search or '')}%",
        }
        return [text for wanted, text in parts if wanted], params


def _status_condition(statuses: Sequence[str]) -> str:
    # The implied predicate of a partial index cannot be proved from a parameter: say it literally where one exists.
    wanted = set(statuses)
    text = "j.status = any(%(statuses)s::text[])"
    if wanted and wanted <= {"failed", "aborted"}:
        return text + " and j.lane = 'failed'"
    if wanted == {"waiting"}:
        return text + " and j.lane = 'waiting'"
    if wanted == {"scheduled"}:
        return text + " and j.lane = 'scheduled'"
    return text


def _escape_like(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


@statement
def list_jobs(which: Filter, limit: int, offset: int, decode: Decode) -> Statement[list[Job]]:
    """List jobs, newest first."""
    conditions, params = which.conditions()
    where = " and ".join(conditions) or "true"

    def read(rows: Rows) -> list[Job]:
        return [read_job(row, decode) for row in rows]

    return Statement(
        f"select {SELECT_LIST} from {{jobs}} j where {where} order by j.id desc limit %(limit)s offset %(offset)s",
        {**params, "limit": limit, "offset": offset},
        read,
        repeatable=True,
    )


@statement
def executions(job_id: str, decode: Decode) -> Statement[list[JobExecution]]:
    """List the attempts at a job, oldest first; one that runs now comes last, from the job's own row."""
    return Statement(
        f"""
        select id::text, job_id::text, attempt, status, worker_id::text,
               {epoch("started_at")}, {epoch("completed_at")}, error, result::text
        from (
            select id, job_id, attempt, status, worker_id, started_at, completed_at, error, result
            from {{executions}}
            where job_id = %(id)s
            union all
            select claim_id, id, attempts, 'running', worker_id, started_at, null, null, null
            from {{jobs}}
            where id = %(id)s and status in ('active', 'aborting')
        ) e
        order by e.status = 'running', e.id
        """,
        {"id": job_id},
        partial(_read_executions, decode),
        repeatable=True,
    )


def _read_executions(decode: Decode, rows: Rows) -> list[JobExecution]:
    return [
        JobExecution(
            id=row[0] if row[3] != "running" else f"running-{row[0]}",
            job_id=row[1],
            attempt=row[2],
            status=ExecutionStatus(row[3]),
            worker_id=row[4],
            started_at=moment(row[5]),
            completed_at=moment(row[6]),
            error=row[7],
            result=decode(row[8]) if row[8] is not None else None,
        )
        for row in rows
    ]


@statement
def dependencies(job_id: str) -> Statement[list[str]]:
    """List the ids of the jobs that a job depends on."""
    return Statement(
        "select depends_on::text from {job_deps} where job_id = %(id)s order by depends_on",
        {"id": job_id},
        column,
        repeatable=True,
    )


# Waiting ------------------------------------------------------------------------------------------


class End(NamedTuple):
    """How far a job is that somebody waits for."""

    id: str
    status: str


@statement
def mark_awaited(ids: Sequence[str]) -> Statement[None]:
    """Mark jobs that have not ended as awaited, so that their settle tells."""
    return Statement(
        """
        with marked as (
            update {jobs}
            set awaited = true
            where id = any(%(ids)s::uuid[])
              and not awaited
              and status not in ('complete', 'failed', 'aborted')
            returning queue, status
        )
        -- A claim that came meanwhile has passed over them.
        select pg_notify({wake}, 'q' || queue) from marked
        where status = 'queued' and exists (select from {idle})
        group by queue
        """,
        {"ids": list(ids)},
        nothing,
        repeatable=True,
    )


@statement
def ends(ids: Sequence[str]) -> Statement[list[End]]:
    """Read the statuses of jobs."""
    return Statement(
        "select id::text, status from {jobs} where id = any(%(ids)s::uuid[])",
        {"ids": list(ids)},
        lambda rows: [End(*row) for row in rows],
        repeatable=True,
    )


# Counts -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QueueStats:
    """How many jobs a queue has in each status, and how long (seconds) the oldest runnable one has waited."""

    queue: str
    counts: dict[str, int]
    oldest: float | None = None
    paused: bool = False
    pause_reason: str | None = None

    @property
    def total(self) -> int:
        """All its jobs."""
        return sum(self.counts.values())


@statement
def queue_stats() -> Statement[list[QueueStats]]:
    """Count jobs by queue and status. Reads the whole table: for people, not for the hot path."""
    return Statement(
        """
        with counted as (
            select queue, status, count(*) as n,
                   extract(epoch from now() - min(scheduled_at) filter (where status = 'queued'))::double precision
                       as oldest
            from {jobs}
            group by queue, status
        )
        select coalesce(c.queue, q.name), jsonb_object_agg(c.status, c.n) filter (where c.status is not null),
               max(c.oldest), bool_or(q.paused_at is not null), max(q.reason)
        from counted c
        full join {queues} q on q.name = c.queue
        group by 1
        order by 1
        """,
        {},
        lambda rows: [QueueStats(row[0], dict(row[1] or {}), row[2], bool(row[3]), row[4]) for row in rows],
        repeatable=True,
    )


@statement
def tell_waiters() -> Statement[None]:
    """Notify those who wait for ends of nothing in particular, so that a listener can prove that it hears."""
    return Statement("select pg_notify({done}, 'p')", {}, nothing, repeatable=True)
