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
from pgwerk._core.statements.claim_texts import BY_PRIORITY, BY_PRIORITY_OF_SOME, CLAIMED_LIST, IN_TURNS
from pgwerk._core.statements.columns import INSERTED
from pgwerk._core.statements.times import epoch, moment

_BEYOND = 2**31 - 1
_FRONT: Place = (-_BEYOND, datetime(1, 1, 1, tzinfo=UTC), "00000000-0000-0000-0000-000000000000")

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
    if skip:
        params["skip"] = array(skip)
    text = (IN_TURNS if in_turns else BY_PRIORITY if each is None else BY_PRIORITY_OF_SOME)[bool(skip)]
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
            {CLAIMED_LIST}
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
