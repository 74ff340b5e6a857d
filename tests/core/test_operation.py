"""Walks: what operations ask for, in which order, and that they stop asking after an error."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from pgwerk._app.clock import new_id
from pgwerk._core.job import JobStatus
from pgwerk._core.operation import (
    Operation,
    Request,
    Statement,
    Steps,
    Walk,
    column,
    count,
    found,
    nothing,
    operation,
    scalar,
    together,
)
from pgwerk._core.operations import enqueue, manage, migrate, recover, settle
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.operations.turn import Turn, turn
from pgwerk._core.outcome import Aborted, Report, Succeeded
from pgwerk._core.procedures.enqueue import enqueue_all
from pgwerk._core.schema import latest, migrations
from pgwerk._core.statements.enqueue import Inserted
from pgwerk.errors import EnqueueError, SchemaVersionMismatch

ONE = Statement("select 1", {}, scalar)
TWO = Statement("select 2", {}, scalar)


def asked(request: "Request | None") -> str:
    """The first words of a request's statements."""
    assert request is not None
    return " + ".join(" ".join(statement.sql.split())[:60] for statement in request)


def answer(walk: Walk[Any], rows: Sequence[Any]) -> None:
    """Answer the statements of a request as Postgres does: with rows, which are read."""
    assert walk.request is not None
    walk.reply([statement.read(found) for statement, found in zip(walk.request, rows, strict=True)])


def walk_through(op: Operation[Any], *replies: Any) -> tuple[list[str], Walk[Any]]:
    """Answer each request with rows; what was asked, and the walk."""
    walk = Walk(op)
    seen = []
    for reply in replies:
        seen.append(asked(walk.request))
        answer(walk, reply)
    return seen, walk


def test_a_statement_is_an_operation_of_one_step() -> None:
    walk = Walk(ONE)
    first = walk.request
    answer(walk, [[(5,)]])
    assert [first, walk.request] == [(ONE,), None]
    assert walk.result == 5


@operation()
def sums() -> Steps[int]:
    first = yield from ONE
    second, third = yield from together(ONE, TWO)
    return int(first + second + third)


def test_an_operation_asks_step_by_step_and_together() -> None:
    op = sums()
    assert (op.atomic, op.repeatable, op.name) == (True, False, "sums")
    for _ in range(2):  # iterating again walks again
        walk = Walk(op)
        requests = [walk.request]
        answer(walk, [[(1,)]])
        requests.append(walk.request)
        answer(walk, [[(2,)], [(3,)]])
        assert [*requests, walk.request] == [(ONE,), (ONE, TWO), None]
        assert walk.result == 6


def test_an_error_is_raised_at_the_step_that_asked_and_ends_the_walk() -> None:
    walk = Walk(sums())
    answer(walk, [[(1,)]])
    with pytest.raises(KeyError):
        walk.fail(KeyError("boom"))
    with pytest.raises(StopIteration):
        next(walk._steps)


def test_nothing_to_ask_together_asks_nothing() -> None:
    @operation()
    def empty() -> Steps[list[Any]]:
        return (yield from together())

    assert Walk(empty()).result == []


def test_answers_of_another_number_are_an_error() -> None:
    walk = Walk(sums())
    answer(walk, [[(1,)]])
    with pytest.raises(ValueError, match="zip"):
        walk.reply([1])


def test_readers_read() -> None:
    rows = [(1, 2), (3, 4)]
    nothing(rows)
    assert (scalar(rows), column(rows), count(rows), found(rows)) == (1, [1, 3], 2, True)
    assert (scalar([]), column([]), count([]), found([])) == (None, [], 0, False)


# Operations -----------------------------------------------------------------------

ID, OTHER = new_id(), new_id()
ROW = (ID, "queued", "1.5", "1.5")
THEN = datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=UTC)


def an_order(*parents: str) -> NewJob:
    return NewJob({"id": ID, "function": "f"}, tuple((parent, False) for parent in parents))


def test_a_plain_enqueue_is_one_statement() -> None:
    seen, walk = walk_through(enqueue.enqueue(an_order(), always_tell=False), [[ROW]])
    assert len(seen) == 1
    assert (walk.request, walk.result) == (None, Inserted(ID, JobStatus.QUEUED, THEN, THEN))


def test_a_duplicate_is_looked_up_once() -> None:
    seen, walk = walk_through(enqueue.enqueue(an_order(), always_tell=False), [[]], [[]])
    assert len(seen) == 2
    assert walk.result is None


def test_an_unknown_dependency_ends_the_walk_before_anything_is_written() -> None:
    walk = Walk(enqueue.enqueue_many([an_order(OTHER)], always_tell=False))
    assert walk.request is not None
    held, looked_for = walk.request
    assert "pg_advisory_xact_lock_shared" in held.sql
    assert "select id::text from {jobs}" in looked_for.sql
    with pytest.raises(EnqueueError, match=OTHER):
        answer(walk, [[], []])


def test_an_abort_of_an_ended_job_asks_once() -> None:
    seen, walk = walk_through(manage.abort(ID), [[]])
    assert len(seen) == 1
    assert walk.result is False


def test_a_settle_that_lost_its_job_asks_once() -> None:
    seen, walk = walk_through(settle.settle([Report(ID, 1, Succeeded())], None), [[]])
    assert len(seen) == 1
    assert walk.result == {}


@pytest.mark.parametrize(
    "op",
    [
        settle.end_unstarted([ID], Aborted()),
        settle.release_waiting([ID]),
        manage.delete([ID]),
        recover.recover_overdue([(ID, 1, "late")]),
        recover.recover_unclaimed([(ID, 1, "late")], 1.0),
    ],
)
def test_where_nothing_is_found_nothing_is_written(op: Operation[Any]) -> None:
    seen, walk = walk_through(op, [[]])
    assert len(seen) == 1
    assert walk.request is None
    assert not walk.result


def test_a_turn_is_one_request_in_the_order_that_frees_before_it_claims() -> None:
    walk = Walk(turn(Turn("w", ["q"], 5, retiring=[1], parents=[ID], keys=["k"], dozing=True)))
    parts = asked(walk.request).split(" + ")
    assert [part.split()[0] for part in parts] == ["delete", "select", "with", "insert", "with"]
    assert parts[-1].startswith("with picked")


def test_an_empty_turn_asks_nothing() -> None:
    assert Walk(turn(Turn("w", ["q"]))).request is None


def test_a_migration_asks_for_what_is_missing_only() -> None:
    done = [[(migration.version,)] for migration in migrations()]
    seen, walk = walk_through(migrate.migrate(), [[]], [[]], [[(True,)]], [[(True,)]], [[row[0] for row in done]])
    assert "set_config" in seen[0]  # no limit cuts the wait for the lock short
    assert seen[1].startswith("select pg_advisory_xact_lock")
    assert (walk.request, walk.result) == (None, [])


def test_newer_tables_end_the_walk() -> None:
    walk = Walk(migrate.migrate())
    answer(walk, [[]])
    answer(walk, [[]])
    answer(walk, [[(True,)]])
    answer(walk, [[(True,)]])
    with pytest.raises(SchemaVersionMismatch, match=str(latest() + 1)):
        answer(walk, [[(latest() + 1,)]])


def test_a_procedure_for_one_plain_job_is_one_operation() -> None:
    steps = enqueue_all([an_order()], joined=False)
    assert next(steps).name == "enqueue"  # type: ignore[attr-defined]
    with pytest.raises(StopIteration) as stop:
        steps.send(None)
    assert stop.value.value == [None]


def test_a_procedure_in_a_callers_transaction_does_not_look_again() -> None:
    answer = ({ID: Inserted(ID, JobStatus.WAITING, None, None)}, [ID])  # type: ignore[arg-type]
    joined, alone = (enqueue_all([an_order(OTHER)], joined=joined) for joined in (True, False))
    next(joined)
    with pytest.raises(StopIteration):
        joined.send(answer)
    next(alone)
    assert alone.send(answer).name == "release_waiting"  # type: ignore[attr-defined]


def test_every_migration_has_a_number_of_its_own() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, latest() + 1))
