"""Recovery judges each row when it acts, and a row that refuses the change holds up none of the others."""

import pytest

from pgwerk._core.operations import recover as op
from pgwerk._core.procedures import sweep
from pgwerk._core.statements import recovery, running
from tests.database.builders import LIVE, OTHER, WORKER, Desk, new

pytestmark = pytest.mark.postgres  # a trigger refuses, or another transaction holds rows


def refuse(desk: Desk, *ids: str, when: str = "true") -> None:
    """Let a trigger of the user's refuse changes of these rows."""
    name = desk.run.text("{jobs}")[:-1] + '_refuse"'
    listed = ", ".join(f"'{id_}'" for id_ in ids)
    desk.sql(
        f"create or replace function {name}() returns trigger language plpgsql as "
        f"$$ begin if old.id in ({listed}) and {when} then raise exception 'not this one'; end if; return new; end $$"
    )
    desk.sql(f"create or replace trigger refuse before update on {{jobs}} for each row execute function {name}()")


HARDLY = "new.status <> 'failed'"
"""Everything but giving up."""


@pytest.mark.parametrize("when", ["true", HARDLY], ids=["every change", "all but a failure"])
def test_a_row_that_refuses_its_recovery_holds_up_no_other_of_a_dead_child(desk: Desk, when: str) -> None:
    desk.live()
    desk.live(OTHER)
    desk.send([new(n, retry=2) for n in range(9)])
    taken = desk.claim(9)
    refuse(desk, taken[4].id, when=when)
    others = sorted(one.id for one in taken if one is not taken[4])
    assert sorted(desk.run.perform(sweep.recover_dead(WORKER, "killed"))) == others
    assert {desk.status(id_) for id_ in others} == {"queued"}
    assert desk.status(taken[4]) == ("active" if when == "true" else "failed")
    assert desk.count("claims") == (when == "true")


@pytest.mark.parametrize("when", ["true", HARDLY], ids=["every change", "all but a failure"])
def test_a_row_that_refuses_its_recovery_holds_up_no_other_that_nobody_claimed(desk: Desk, when: str) -> None:
    ids = [desk.put(n, timeout=5) for n in range(7)]
    desk.sql("update {jobs} set status = 'active', attempts = 1, started_at = now() - interval '1 hour'")
    refuse(desk, ids[2], when=when)
    swept = desk.sweep()
    assert sorted(swept.recovered) == sorted(set(ids) - {ids[2]})
    assert [id_ for id_, _ in swept.refused] == [ids[2]]
    assert desk.status(ids[2]) == ("active" if when == "true" else "failed")


def test_a_row_that_refuses_its_recovery_holds_up_no_other_that_is_overdue(desk: Desk) -> None:
    desk.live()
    desk.send([new(n, timeout=5) for n in range(7)])
    taken = desk.claim(7)
    desk.sql("update {jobs} set started_at = now() - interval '1 hour'")
    refuse(desk, taken[2].id)
    swept = desk.run.perform(sweep.recover(LIVE))
    assert sorted(swept.recovered) == sorted(one.id for one in taken if one is not taken[2])
    assert desk.status(taken[2]) == "active"


def test_a_job_renewed_after_it_was_found_overdue_is_left_alone(desk: Desk) -> None:
    desk.live()
    taken = desk.take(retry=2, heartbeat=5)
    desk.ago(taken, 60, "touched_at")
    late = desk.run(recovery.overdue(500, 60.0))
    assert [(id_, claim) for id_, claim, _ in late] == [(taken.id, taken.claim)]
    assert desk.run(running.touch([(taken.id, taken.claim)])) == [taken.id]
    assert desk.run(op.recover_overdue(late, seen=60.0)) == []
    assert desk.status(taken) == "active"
    assert desk.executions(taken) == []


def test_a_row_that_is_being_renewed_is_not_judged(desk: Desk) -> None:
    desk.live()
    taken = desk.take(retry=2, heartbeat=5)
    desk.ago(taken, 60, "touched_at")
    other = desk.run.peer()
    other.begin()
    other.run(running.touch([(taken.id, taken.claim)]))
    assert desk.run.perform(sweep.recover(LIVE, seen=60.0)).recovered == []
    other.commit()
    assert desk.run.perform(sweep.recover(LIVE, seen=60.0)).recovered == []
    assert desk.status(taken) == "active"


def test_a_row_claimed_after_it_was_found_is_left_alone(desk: Desk) -> None:
    desk.live()
    job_id = desk.put(timeout=5)
    desk.sql("update {jobs} set status = 'active', attempts = 1, started_at = now() - interval '1 hour'")
    found, last = desk.run(recovery.unclaimed(3600.0, recovery.FIRST_RUNNABLE, 10))
    assert [one[0] for one in found] == [job_id]
    assert last is not None
    assert desk.run(recovery.unclaimed(3600.0, last, 10)) == ([], None)
    desk.sql("update {jobs} set status = 'queued', attempts = 0, started_at = null")
    (taken,) = desk.claim(1)
    assert desk.run(op.recover_unclaimed(found, 3600.0)) == []
    assert desk.status(taken) == "active"


def test_unclaimed_rows_are_found_in_steps_through_all_queues(desk: Desk) -> None:
    desk.send([new(n, queue=f"q{n % 3}", priority=n % 5, timeout=5) for n in range(60)])
    wanted = [row[0] for row in desk.sql("select id::text from {jobs} order by id limit 7")]
    desk.sql("update {jobs} set status = 'active', attempts = 1, started_at = now() - interval '1 hour'"
             " where id = any(%s::uuid[])", wanted)  # fmt: skip
    place, seen, steps = recovery.FIRST_RUNNABLE, [], 0
    while True:
        found, last = desk.run(recovery.unclaimed(3600.0, place, 7))
        seen += [one[0] for one in found]
        if last is None:
            break
        place, steps = last, steps + 1
    assert (sorted(seen), steps) == (wanted, 9)
