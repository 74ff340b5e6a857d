"""Groups: permits are never oversubscribed, and no member is stranded when a denial and a release pass each other."""

import random

import pytest

from pgwerk._core.claim import Claimed
from pgwerk._core.operations import manage
from pgwerk._core.operations import settle as op
from pgwerk._core.options import Group
from pgwerk._core.outcome import Aborted, Interrupted, Lost, Outcome
from pgwerk._core.statements import claims, permits
from tests.database.builders import OTHER, WORKER, Desk, failed, ids, new, report


def active(desk: Desk, key: str = "g") -> int:
    return int(desk.one("select count(*) from {jobs} where group_key = %s and status in ('active', 'aborting')", key))


def blocked(desk: Desk) -> int:
    return int(desk.one("select count(*) from {jobs} where blocked"))


def test_one_member_runs_and_the_others_leave_the_way(desk: Desk) -> None:
    members = [desk.put(n, group="g") for n in range(3)]
    outsider = desk.put()
    got = desk.claimed(10)
    assert sorted(ids(got.jobs)) == sorted([members[0], outsider])
    assert got.denied == ["g"]
    assert [desk.row(one)["blocked"] for one in members] == [False, True, True]
    again = desk.claimed(10)
    assert (again.jobs, again.denied) == ([], [])


def test_a_limit_lets_so_many_run(desk: Desk) -> None:
    desk.send([new(n, group=Group("g", 3)) for n in range(5)])
    assert len(desk.claim(10)) == 3
    assert (active(desk), blocked(desk), desk.count("permits")) == (3, 2, 3)


def test_a_blocked_group_costs_the_others_nothing(desk: Desk) -> None:
    desk.send([new(n, group="g", priority=9) for n in range(20)])
    others = desk.send([new(n) for n in range(3)])
    desk.claim(10)
    desk.claim(10)
    desk.claim(10)
    assert desk.statuses(*[one.id for one in others if one]) == ["active"] * 3


@pytest.mark.parametrize("way", ["success", "failure", "retry", "give back", "lost", "abort", "delete"])
def test_every_end_lets_the_next_member_run(desk: Desk, way: str) -> None:
    first = desk.take(1, group="g", retry=3)
    second = desk.put(2, group="g")
    assert desk.claimed().denied == ["g"]
    if way == "delete":
        assert desk.run(manage.delete([first.job.id]))
    elif way == "abort":
        assert desk.run(manage.abort(first.job.id))
    else:
        outcomes: dict[str, Outcome] = {
            "failure": failed(),
            "retry": failed(),
            "give back": Interrupted(),
            "lost": Lost("x"),
        }
        outcome = outcomes.get(way)
        if way == "failure":
            desk.sql("update {jobs} set max_attempts = 1 where id = %s", first.job.id)
        assert desk.end(first, outcome)
    assert desk.count("permits") == 0
    assert not desk.row(second)["blocked"]
    got = desk.claimed()
    assert len(got.jobs) == 1
    assert active(desk) == 1


def test_the_most_urgent_member_is_next(desk: Desk) -> None:
    first = desk.take(1, group="g")
    low, high = desk.put(2, group="g"), desk.put(3, group="g", priority=5)
    desk.claim()
    desk.end(first)
    assert [desk.row(one)["blocked"] for one in (low, high)] == [True, False]


@pytest.mark.postgres
def test_two_claims_in_open_transactions_never_exceed_the_limit(desk: Desk) -> None:
    desk.send([new(n, group=Group("g", 2)) for n in range(6)])
    one, two = desk.run.peer(), desk.run.peer()
    one.begin()
    two.begin()
    first = desk.claimed(1, by=one).jobs
    assert len(first) == 1
    two.start(claims.claim(["default"], 5, OTHER))
    if two.waits:
        one.commit()
        second = two.finish()
    else:
        second = two.finish()
        one.commit()
    two.commit()
    assert active(desk) == len(first) + len(second.jobs) <= 2
    desk.run(permits.ready(["g"]))
    desk.claim()
    assert active(desk) == 2


@pytest.mark.postgres
def test_a_rolled_back_claim_leaves_its_permit_to_the_other(desk: Desk) -> None:
    desk.send([new(n, group="g") for n in range(2)])
    one, two = desk.run.peer(), desk.run.peer()
    one.begin()
    assert len(desk.claimed(1, by=one).jobs) == 1
    two.start(claims.claim(["default"], 5, OTHER))
    assert two.waits
    one.rollback()
    assert len(two.finish().jobs) == 1
    assert active(desk) == 1


@pytest.mark.postgres
def test_claims_over_many_groups_do_not_deadlock(desk: Desk) -> None:
    desk.send([new(n, group=f"g{n % 4}", queue="ab"[n % 2]) for n in range(16)])
    one, two = desk.run.peer(), desk.run.peer()
    one.begin()
    first = desk.claimed(2, "a", by=one)
    two.start(claims.claim(["b", "a"], 10, OTHER))
    third = desk.claimed(2, "b", by=one) if not two.waits else None
    one.commit()
    second = two.finish()
    total = len(first.jobs) + len(second.jobs) + (len(third.jobs) if third else 0)
    assert total == active(desk, "g0") + active(desk, "g1") + active(desk, "g2") + active(desk, "g3") <= 4


def test_a_denial_that_commits_before_the_release_is_readied_by_it(desk: Desk) -> None:
    first = desk.take(1, group="g")
    second = desk.put(2, group="g")
    assert desk.claimed().denied == ["g"]
    desk.end(first)
    assert ids(desk.claim()) == [second]


@pytest.mark.postgres
def test_a_denial_that_overlaps_a_release_is_found_by_its_own_second_look(desk: Desk) -> None:
    first = desk.take(1, group="g")
    second = desk.put(2, group="g")
    settler = desk.run.peer()
    settler.begin()
    settler.run(op.settle([report(first)], WORKER))  # its look at blocked members sees none
    assert desk.claimed(worker=OTHER).denied == ["g"]  # the permit is still there for this snapshot
    settler.commit()
    assert desk.row(second)["blocked"]
    assert desk.run(permits.ready(["g"])) == 1  # what the denied claim asks for in its next turn
    assert ids(desk.claim()) == [second]


@pytest.mark.postgres
def test_a_release_that_overlaps_a_denial_is_found_by_its_own_second_look(desk: Desk) -> None:
    first = desk.take(1, group="g")
    second = desk.put(2, group="g")
    claimer = desk.run.peer()
    claimer.begin()
    assert desk.claimed(by=claimer, worker=OTHER).denied == ["g"]
    desk.end(first)  # does not see the denial, which is not committed
    assert desk.run(permits.ready(["g"])) == 0
    claimer.commit()
    assert desk.row(second)["blocked"]
    assert desk.run(permits.ready(["g"])) == 1  # whoever committed last looks again
    assert ids(desk.claim()) == [second]


@pytest.mark.postgres
def test_a_denial_whose_second_look_comes_before_the_commit_of_the_release(desk: Desk) -> None:
    first = desk.take(1, group="g")
    second = desk.put(2, group="g")
    settler = desk.run.peer()
    settler.begin()
    settler.run(op.settle([report(first)], WORKER))
    assert desk.claimed(worker=OTHER).denied == ["g"]
    assert desk.run(permits.ready(["g"])) == 0  # the denied claim looks again, too early
    settler.commit()
    assert desk.run(permits.ready(["g"])) == 1  # the releasing worker looks again after its commit
    assert ids(desk.claim()) == [second]


@pytest.mark.postgres
def test_a_member_that_slipped_through_all_looks_is_found_by_the_sweep(desk: Desk) -> None:
    first = desk.take(1, group="g")
    second = desk.put(2, group="g")
    settler = desk.run.peer()
    settler.begin()
    settler.run(op.settle([report(first)], WORKER))
    desk.claim()
    settler.commit()
    assert desk.sweep().readied == 1
    assert ids(desk.claim()) == [second]


def test_looking_again_is_idempotent_and_readies_no_more_than_there_is_room_for(desk: Desk) -> None:
    desk.send([new(n, group=Group("g", 2)) for n in range(6)])
    first, second = desk.claim()
    assert desk.run(permits.ready(["g"])) == 0
    desk.run(op.settle([report(first), report(second)], WORKER))
    assert blocked(desk) == 2
    assert len(desk.claim()) == 2


def test_permits_whose_job_is_gone_are_given_back_by_the_sweep(desk: Desk) -> None:
    first = desk.take(1, group="g")
    second = desk.put(2, group="g")
    desk.claim()
    desk.sql("delete from {jobs} where id = %s", first.job.id)
    desk.sweep()
    assert ids(desk.claim()) == [second]


def test_a_blocked_member_that_is_cancelled_or_expires_leaves(desk: Desk) -> None:
    desk.live()
    first = desk.take(1, group="g")
    second, third = desk.put(2, group="g"), desk.put(3, group="g", ttl=50)
    desk.claim()
    assert desk.run(op.end_unstarted([second], Aborted()))
    desk.ago(third, 60, "expires_at")
    assert desk.sweep().expired == 1
    assert desk.statuses(first, second, third) == ["active", "aborted", "aborted"]
    assert blocked(desk) == 0


def test_a_blocked_member_that_is_rescheduled_runs_when_it_is_due(desk: Desk) -> None:
    first = desk.take(1, group="g")
    second = desk.put(2, group="g")
    desk.claim()
    assert desk.run(manage.update(second, at=None, delay=60, priority=None, meta=None))
    desk.end(first)
    desk.ago(second, 100, "scheduled_at")
    assert desk.perform_promote() == 1
    assert ids(desk.claim()) == [second]


def test_members_with_different_limits_share_the_slots(desk: Desk) -> None:
    for limit in (1, 3, 2, 3, 3):
        desk.put(group=Group("g", limit))
    running = desk.claim()
    assert 1 <= len(running) <= 3
    for _ in range(10):
        if not running:
            break
        desk.end(running[0])
        running = running[1:] + desk.claim()
    assert desk.sql("select 1 from {jobs} where status <> 'complete'") == []


@pytest.mark.parametrize("seed", range(3))
def test_random_histories_neither_exceed_a_limit_nor_strand_a_member(desk: Desk, seed: int) -> None:
    draw = random.Random(seed)
    limits = {"a": 1, "b": 2, "c": 3}
    orders = [new(n, group=Group(key, limits[key]), retry=9) for n in range(24) for key in [draw.choice("abc")]]
    desk.send(orders)
    running: list[Claimed] = []
    denied: set[str] = set()
    for _ in range(400):
        if running and draw.random() < 0.6:
            taken = running.pop(draw.randrange(len(running)))
            assert desk.end(taken, draw.choice([None, None, failed(), Interrupted()]))
        else:
            got = desk.claimed(draw.randint(1, 6))
            running += got.jobs
            denied.update(got.denied)
        for key, limit in limits.items():
            assert sum(one.job.group_key == key for one in running) <= limit
        if (
            not running
            and not desk.claimed(0).jobs
            and desk.one("select count(*) from {jobs} where lane = 'ready'") == 0
        ):
            break
    assert set(desk.statuses(*[order.id for order in orders])) == {"complete"}
    assert desk.count("permits") == 0


@pytest.mark.postgres
def test_eight_connections_racing_never_exceed_a_limit(desk: Desk) -> None:
    desk.send([new(n, group=Group("g", 3)) for n in range(40)])
    peers = [desk.run.peer() for _ in range(4)]
    for _ in range(6):
        for peer in peers:
            peer.launch(claims.claim(["default"], 2, WORKER))
        got = [job for peer in peers for job in peer.finish().jobs]
        assert active(desk) <= 3
        if got:
            desk.run(op.settle([report(job) for job in got], WORKER))
        desk.run(permits.ready(["g"]))
    assert int(desk.one("select count(*) from {jobs} where status = 'complete'")) >= 12
