"""Inserting many jobs by COPY: for Postgres a third of the work of an INSERT, and next to none for the client.

COPY knows neither conflicts nor columns that only some rows have. So it takes jobs without keys, which have all set
the same columns, to plain values; a worker may run them at once. Everything else goes by INSERT.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

from pgwerk._core.operation import Copy, Statement
from pgwerk._core.statements.times import epoch

LEAST = 50
"""Fewer jobs are inserted as fast by one statement as by the two that a COPY needs."""
_BLOCK = 250
"""Jobs whose lines are sent at once: enough that sending costs little, and few enough that Postgres starts early."""

_SPECIAL = re.compile(r"[\\\n\r\t]")
_ESCAPED = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PLAIN = frozenset((str, int, float, bool, type(None)))


SCHEDULING = {"delay", "at", "waiting", "ttl"}
"""Without any of these, a job may run at once, and until it does."""


def may_run_at_once(names: Collection[str]) -> bool:
    """Whether jobs with these columns are all queued by their insertion, under ids that we know."""
    return "id" in names and SCHEDULING.isdisjoint(names)


def copied(jobs: Sequence[dict[str, Any]], insert: Callable[[], Statement[Any]], *, always_tell: bool) -> Copy | None:
    """Insert jobs by COPY, or in the other way; None for jobs that need the other way."""
    names = tuple(jobs[0])
    if len(jobs) < LEAST or "key" in names or not may_run_at_once(names):
        return None
    for job in jobs:
        if tuple(job) != names or not _PLAIN.issuperset(map(type, job.values())):
            return None
    return Copy(_copy_sql(names), partial(_lines, jobs), _told(jobs, always_tell=always_tell), insert)


@lru_cache(maxsize=256)
def _copy_sql(names: tuple[str, ...]) -> str:
    return f"copy {{jobs}} ({', '.join(names)}) from stdin"


def _told(jobs: Sequence[dict[str, Any]], *, always_tell: bool) -> Statement[Any]:
    queues = sorted({job.get("queue", "default") for job in jobs})
    params = {"queues": queues, "tell": always_tell, "count": len(jobs), "first": jobs[0]["id"]}
    return Statement(_TOLD, params, list)


_TOLD = f"""
    select %(count)s::bigint, {epoch("j.enqueued_at")}, (
        select count(pg_notify({{wake}}, 'q' || queue))
        from unnest(%(queues)s::text[]) as t(queue)
        where %(tell)s::boolean or exists (select from {{idle}})
    )
    from {{jobs}} j
    where j.id = %(first)s::uuid
"""
"""What the INSERT answers. Rows of one COPY have the time of its beginning."""


def _lines(jobs: Sequence[dict[str, Any]]) -> Iterator[str]:
    search = _SPECIAL.search
    for start in range(0, len(jobs), _BLOCK):
        lines: list[str] = []
        for job in jobs[start : start + _BLOCK]:
            values = job.values()
            try:
                # Nearly always: nothing but texts, and nothing in them that has to be escaped.
                special = search("".join(values)) is not None
            except TypeError:
                special = True
            lines.append("\t".join([_field(value) for value in values] if special else values))
        lines.append("")
        yield "\n".join(lines)


def _field(value: Any) -> str:
    if value is None:
        return "\\N"
    return _SPECIAL.sub(lambda match: _ESCAPED[match[0]], str(value))
