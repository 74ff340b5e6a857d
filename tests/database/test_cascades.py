"""Dependents by the thousand, in every shape: an end has all its consequences, in seconds, in one transaction."""

import random
import time
from collections.abc import Callable

import pytest

from pgwerk._core.operations import manage
from pgwerk._core.operations import settle as op
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.options import Dependency
from pgwerk._core.outcome import Aborted
from pgwerk._core.procedures import bulk
from pgwerk._memory.messages import WAKE
from tests.database.builders import WORKER, Desk, failed, new, report

MANY = 10_000
SECONDS = 60.0
"""Far more than is needed, and far less than a round trip or more for each job would take here."""


def chain(count: int) -> list[NewJob]:
    found = [new()]
    while len(found) < count:
        found.append(new(depends_on=found[-1].id))
    return found


def fan(count: int) -> list[NewJob]:
    head = new()
    return [head, *(new(depends_on=head.id) for _ in range(count - 1))]


def diamonds(count: int) -> list[NewJob]:
    """Rows of a hundred, each job of which waits for ten of the row before."""
    draw = random.Random(7)
    head = new()
    found, row = [head], [head.id]
    while len(found) < count:
        below = [new(depends_on=draw.sample(row, min(10, len(row)))) for _ in range(100)]
        found += below
        row = [one.id for one in below]
    return found


SHAPES = pytest.mark.parametrize("shape", [chain, fan, diamonds])
Shape = Callable[[int], list[NewJob]]


def fails(desk: Desk, head: str) -> None:
    (taken,) = desk.claim(1)
    assert taken.id == head
    assert head in desk.run(op.settle([report(taken, failed())], WORKER))


def is_cancelled(desk: Desk, head: str) -> None:
    assert desk.run(op.end_unstarted([head], Aborted())) == [head]


def is_aborted(desk: Desk, head: str) -> None:
    assert desk.run(manage.abort(head))


def is_deleted(desk: Desk, head: str) -> None:
    assert desk.run(manage.delete([head])) == [head]


def failed_long_ago(desk: Desk, head: str) -> None:
    desk.sql("update {jobs} set status = 'failed', completed_at = now() where id = %s", head)
    desk.sweep()


@SHAPES
@pytest.mark.parametrize("end", [fails, is_cancelled, is_aborted, is_deleted, failed_long_ago])
@pytest.mark.parametrize("executor_kind", ["sync"], indirect=True)
def test_the_end_of_a_head_ends_all_below_it(desk: Desk, shape: Shape, end: Callable[[Desk, str], None]) -> None:
    new_jobs = shape(MANY)
    began = time.monotonic()
    desk.send(new_jobs)
    assert desk.one("select count(*) from {jobs} where status = 'waiting'") == len(new_jobs) - 1
    end(desk, new_jobs[0].id)
    assert time.monotonic() - began < SECONDS
    assert desk.one("select count(*) from {jobs} where status not in ('failed', 'aborted')") == 0
    below = [new_job for new_job in new_jobs if new_job.depends_on]
    rows = dict(desk.sql("select id::text, error from {jobs}"))
    for new_job in random.Random(1).sample(below, 50):
        assert rows[new_job.id] in {f"dependency failed: {parent}" for parent, _ in new_job.depends_on}


@SHAPES
@pytest.mark.parametrize("executor_kind", ["sync"], indirect=True)
def test_the_success_of_a_head_releases_what_it_held(desk: Desk, shape: Shape) -> None:
    new_jobs = shape(MANY)
    desk.send(new_jobs)
    (taken,) = desk.claim(1)
    began = time.monotonic()
    assert desk.end(taken)
    assert time.monotonic() - began < SECONDS
    free = [new_job for new_job in new_jobs if [parent for parent, _ in new_job.depends_on] == [taken.id]]
    assert desk.one("select count(*) from {jobs} where status = 'queued'") == len(free)


def test_consequences_go_on_through_those_that_take_a_failure(desk: Desk) -> None:
    """Tolerant ones are released; those of them that another dependency fails end, and so do theirs."""
    head = desk.put()
    hard = desk.put(depends_on=head)
    tolerant = desk.put(depends_on=Dependency(hard, allow_failure=True))
    mixed = desk.put(depends_on=[Dependency(hard, allow_failure=True), head])
    below = desk.put(depends_on=mixed)
    waits = desk.put(depends_on=[Dependency(below, allow_failure=True), tolerant])
    is_cancelled(desk, head)
    assert desk.statuses(head, hard, tolerant, mixed, below, waits) == [
        "aborted", "failed", "queued", "failed", "failed", "waiting",
    ]  # fmt: skip
    (taken,) = desk.claim()
    assert taken.id == tolerant
    desk.end(taken)
    assert desk.status(waits) == "queued"


def test_each_of_a_chain_has_its_callback_and_goes_when_it_should(desk: Desk) -> None:
    head = desk.put()
    new_jobs = [new(depends_on=head, on_failure="app.no", failure_mode="delete")]
    for _ in range(40):
        new_jobs.append(new(depends_on=new_jobs[-1].id, failure_mode="delete"))
    desk.send(new_jobs)
    is_cancelled(desk, head)
    left = desk.sql("select id::text from {jobs} where callback_of is null and id <> %s", head)
    assert left == [(new_jobs[0].id,)]  # its callback reads it
    assert desk.one("select callback_of::text from {jobs} where function = 'app.no'") == new_jobs[0].id
    assert desk.count("job_deps") == 1


def test_a_circle_made_by_hand_ends_nothing_twice_and_hangs_nobody(desk: Desk) -> None:
    head = desk.put()
    one = desk.put(depends_on=head)
    two = desk.put(depends_on=one)
    desk.sql("insert into {job_deps} (job_id, depends_on) values (%s, %s), (%s, %s)", one, two, two, two)
    is_cancelled(desk, head)
    assert desk.statuses(one, two) == ["failed", "failed"]


def test_a_chain_is_cancelled_whole_by_a_bulk_cancel(desk: Desk) -> None:
    new_jobs = chain(1500)
    desk.send(new_jobs)
    assert desk.run.perform(bulk.cancel_all(None)) == 1500
    assert desk.one("select count(*) from {jobs} where status = 'aborted'") == 1500


@pytest.mark.postgres  # a notification of Postgres has room for so many ids only
def test_dependents_of_others_are_told_of_in_messages_of_many(desk: Desk) -> None:
    head = desk.put()
    desk.looking.listen(WAKE)
    desk.send([new(depends_on=head) for _ in range(400)])
    payloads = desk.looking.heard()
    told = [payload[1:].split(",") for payload in payloads if payload.startswith("w")]
    assert len(told) == 3
    assert sum(map(len, told)) == 400
