"""Claiming: order, limits, what is passed over, and what it costs."""

import random
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pgwerk._core.operations.enqueue import begin_inline
from pgwerk._core.outcome import Interrupted
from pgwerk._core.statements import admin, claims, permits
from tests.database.builders import OTHER, WORKER, Desk, ids, new
from tests.fixtures.run import Peer

EARLY = datetime(2020, 1, 1, tzinfo=UTC)


def test_an_empty_queue_gives_nothing_and_writes_nothing(desk: Desk) -> None:
    assert desk.claimed(10).jobs == []
    assert desk.count("claims") == 0


def test_a_claim_marks_the_job_and_counts_the_attempt(desk: Desk) -> None:
    job_id = desk.put(1, timeout=5)
    (taken,) = desk.claim()
    row = desk.row(job_id)
    assert (row["status"], row["attempts"], str(row["worker_id"])) == ("active", 1, WORKER)
    assert row["claim_id"] == taken.claim
    assert row["started_at"] is not None
    assert row["touched_at"] is not None
    assert (taken.job.attempts, taken.job.timeout_secs, taken.plain) == (1, 5.0, True)
    assert desk.sql("select worker_id::text, job_id::text from {worker_jobs}") == [(WORKER, job_id)]


def test_priority_then_time_then_id_decide_the_order(desk: Desk) -> None:
    late = desk.put(at=EARLY + timedelta(hours=1))
    early = desk.put(at=EARLY)
    urgent = desk.put(priority=5)
    twin = desk.put(at=EARLY)
    unimportant = desk.put(priority=-5, at=EARLY)
    assert ids(desk.claim()) == [urgent, early, twin, late, unimportant]


def test_a_small_claim_takes_the_most_urgent(desk: Desk) -> None:
    jobs = [desk.put(priority=p) for p in (1, 9, 5, 7, 3)]
    assert ids(desk.claim(2)) == [jobs[1], jobs[3]]
    assert ids(desk.claim(2)) == [jobs[2], jobs[4]]


def test_several_queues_are_one_order_by_priority(desk: Desk) -> None:
    a = desk.put(queue="a", priority=1)
    b = desk.put(queue="b", priority=3)
    c = desk.put(queue="a", priority=2)
    desk.put(queue="elsewhere", priority=9)
    assert ids(desk.claim(10, "a", "b")) == [b, c, a]


def test_in_turns_one_of_each_queue_comes_after_the_other(desk: Desk) -> None:
    many = [desk.put(queue="many", priority=9) for _ in range(4)]
    few = [desk.put(queue="few") for _ in range(2)]
    taken = ids(desk.claim(4, "few", "many", in_turns=True))
    assert sorted(taken) == sorted([few[0], many[0], few[1], many[1]])
    assert ids(desk.claim(4, "few", "many", in_turns=True)) == many[2:]


def test_in_turns_each_queue_keeps_its_own_order(desk: Desk) -> None:
    low = desk.put(queue="a", priority=1)
    high = desk.put(queue="a", priority=2)
    other = desk.put(queue="b")
    assert ids(desk.claim(3, "a", "b", in_turns=True)) in ([high, other, low], [other, high, low])


def test_in_turns_no_queue_gives_more_than_its_share_and_the_claim_says_that_there_may_be_more(desk: Desk) -> None:
    many = [desk.put(queue="many") for _ in range(5)]
    few = [desk.put(queue="few") for _ in range(1)]
    first = desk.run(claims.claim(("many", "few"), 4, WORKER, in_turns=True, each=2))
    assert ids(first.jobs) == [many[0], few[0], many[1]]
    assert first.curbed
    second = desk.run(claims.claim(("many", "few"), 4, WORKER, in_turns=True, each=4))
    assert ids(second.jobs) == many[2:]
    assert not second.curbed


@pytest.mark.parametrize("each", [1, 4, 12, 39])
def test_by_priority_a_look_at_some_of_each_queue_takes_nothing_too_early(desk: Desk, each: int) -> None:
    draw = random.Random(each)
    queues = [f"q{n}" for n in range(5)]
    orders = [new(queue=draw.choice(queues[: 1 + n // 40]), priority=draw.randrange(3)) for n in range(200)]
    desk.send(orders)
    by_id = {order.id: order.values for order in orders}
    taken: list[str] = []
    while len(taken) < len(orders):
        claim = desk.run(claims.claim(queues, 40, WORKER, each=each))
        assert len(claim) == 40 or claim.curbed or len(taken) + len(claim) == len(orders)
        assert claim.largest <= each
        taken += ids(claim.jobs)
    priorities = [by_id[id_].get("priority", 0) for id_ in taken]
    assert priorities == sorted(priorities, reverse=True)
    assert taken == sorted(taken, key=lambda id_: (-by_id[id_].get("priority", 0), desk.row(id_)["scheduled_at"], id_))


def test_members_that_were_denied_may_have_hidden_more(desk: Desk) -> None:
    for _ in range(3):
        desk.put(queue="a", group="g")
    claim = desk.run(claims.claim(("a", "b"), 4, WORKER, in_turns=True, each=2))
    assert (len(claim), claim.passed_over, claim.curbed) == (1, 1, True)
    again = desk.run(claims.claim(("a", "b"), 4, WORKER, in_turns=True, each=2))
    assert (len(again), again.passed_over) == (0, 1)
    last = desk.run(claims.claim(("a", "b"), 4, WORKER, in_turns=True, each=2))
    assert (len(last), last.curbed) == (0, False)


@pytest.mark.parametrize("in_turns", [False, True])
def test_the_limit_holds_over_many_queues(desk: Desk, in_turns: bool) -> None:
    queues = [f"q{n}" for n in range(8)]
    desk.send([new(queue=queue) for queue in queues for _ in range(5)])
    for count in (1, 3, 8, 13):
        assert len(desk.claim(count, *queues, in_turns=in_turns)) == count
    assert len(desk.claim(100, *queues, in_turns=in_turns)) == 40 - 25


def test_a_queue_named_twice_gives_each_job_once(desk: Desk) -> None:
    job_id = desk.put()
    assert ids(desk.claim(10, "default", "default")) == [job_id]


def test_paused_queues_are_passed_over_until_resumed(desk: Desk) -> None:
    paused, open_ = desk.put(queue="paused"), desk.put(queue="open")
    desk.run(admin.pause("paused", "repairs"))
    assert ids(desk.claim(10, "paused", "open")) == [open_]
    assert desk.run(admin.resume("paused"))
    assert not desk.run(admin.resume("paused"))
    assert ids(desk.claim(10, "paused", "open")) == [paused]


def test_future_expired_waiting_and_ended_jobs_are_not_claimed(desk: Desk) -> None:
    desk.put(delay=60)
    expired = desk.put(ttl=5)
    desk.ago(expired, 10, "scheduled_at", "expires_at")
    parent = desk.put(queue="other")
    desk.put(depends_on=parent)
    done = desk.take()
    desk.end(done)
    assert desk.claim() == []


def test_a_row_that_says_queued_for_the_future_is_not_claimed_early(desk: Desk) -> None:
    desk.sql("insert into {jobs} (function, scheduled_at) values ('app.work', now() + interval '1 hour')")
    assert desk.claim() == []


@pytest.mark.postgres
def test_open_transactions_claim_disjoint_jobs(desk: Desk) -> None:
    jobs = {desk.put() for _ in range(10)}
    one, two = desk.run.peer(), desk.run.peer()
    one.begin()
    two.begin()
    first = ids(desk.claim(4, by=one))
    second = ids(desk.claim(4, by=two, worker=OTHER))
    rest = ids(desk.claim(10))
    assert len(first) == len(second) == 4
    assert len(rest) == 2
    assert {*first, *second, *rest} == jobs
    one.rollback()
    two.commit()
    assert set(ids(desk.claim(10))) == set(first)


def test_claim_numbers_never_repeat_for_a_job(desk: Desk) -> None:
    taken = desk.take(retry=5)
    seen = {taken.claim}
    for _ in range(3):
        assert desk.close(taken, Interrupted())
        (taken,) = desk.claim()
        assert taken.claim not in seen
        assert taken.job.attempts == 1
        seen.add(taken.claim)


@pytest.mark.postgres
def test_claims_are_heap_only_updates_where_the_page_has_room(desk: Desk) -> None:
    desk.sql("alter table {jobs} set (fillfactor = 40)")
    desk.send([new(n) for n in range(200)])
    peer = desk.run.peer()
    before = _updates(desk, peer)
    assert len(desk.claim(100, by=peer)) == 100
    assert [after - b for after, b in zip(_updates(desk, peer), before, strict=True)] == [100, 100]


def _updates(desk: Desk, peer: Peer) -> list[int]:
    # A backend sends its statistics when it is idle for a while, or is told to.
    peer.sql("select pg_stat_force_next_flush()")
    desk.sql("select pg_stat_clear_snapshot()")
    text = "select n_tup_upd, n_tup_hot_upd from pg_stat_all_tables where relid = %s::regclass"
    return list(desk.sql(text, desk.run.names.table("jobs"))[0])


def test_one_job_can_be_claimed_by_its_id_before_it_is_due(desk: Desk) -> None:
    job_id = desk.put(delay=60)
    taken = desk.run(claims.claim_one(job_id, WORKER))
    assert taken is not None
    assert (taken.job.id, desk.status(job_id)) == (job_id, "active")
    assert desk.run(claims.claim_one(job_id, WORKER)) is None


def test_an_inline_job_is_inserted_and_claimed_at_once(desk: Desk) -> None:
    wanted = new(1, key="k")
    taken = desk.run(begin_inline(wanted, WORKER))
    assert taken is not None
    assert desk.status(wanted.id) == "active"
    assert desk.run(begin_inline(new(2, key="k"), WORKER)) is None


def test_a_job_of_a_foreign_producer_is_claimed_with_defaults(desk: Desk) -> None:
    (made,) = desk.sql("insert into {jobs} (function, queue) values ('other.language', 'default') returning id")
    assert made[0].version == 7
    (taken,) = desk.claim()
    job = taken.job
    assert (job.function, job.queue, job.attempts, job.max_attempts) == ("other.language", "default", 1, 1)
    assert job.args == ()
    assert desk.end(taken)
    assert desk.status(job.id) == "complete"


@pytest.mark.parametrize(
    "odd", ["group_key = repeat('g', 2000)", "group_limit = 0", "group_limit = 2000000000", "timeout_secs = 'nan'",
            "timeout_secs = 1e300", "heartbeat_secs = -1", "ttl = 'infinity'", "failure_mode = 'x'", "status = 'x'"],
)  # fmt: skip
def test_values_that_would_stop_the_work_of_others_cannot_be_stored(desk: Desk, odd: str) -> None:
    job_id = desk.put()
    with pytest.raises(psycopg.errors.CheckViolation):
        desk.sql(f"update {{jobs}} set {odd} where id = %s", job_id)


def test_the_extreme_priorities_can_be_claimed(desk: Desk) -> None:
    low, high, later = desk.put(priority=-32768), desk.put(priority=32767), desk.put(priority=-32768, delay=5)
    desk.ago(later, 3600, "scheduled_at")
    assert desk.perform_promote() == 1
    assert ids(desk.claim()) == [high, later, low]
    for _ in range(2):
        desk.put(priority=-32768, group="g")
    assert len(desk.claim(10, "default", in_turns=True)) == 1
    assert desk.run(permits.ready(["g"])) == 0


def test_ids_of_foreign_producers_ascend_with_time(desk: Desk) -> None:
    made = []
    for _ in range(5):
        made += desk.sql("insert into {jobs} (function) values ('f') returning id::text")
        desk.sql("select pg_sleep(0.003)")
    assert made == sorted(made)
    assert abs(int(made[0][0].replace("-", "")[:12], 16) / 1000 - desk.now().timestamp()) < 60


def test_many_small_claims_take_every_job_exactly_once(desk: Desk) -> None:
    draw = random.Random(7)
    jobs = {
        row.id
        for row in desk.send([new(queue=draw.choice("abc"), priority=draw.randint(0, 2)) for _ in range(60)])
        if row
    }
    taken: list[str] = []
    while got := ids(desk.claim(draw.randint(1, 9), "a", "b", "c", in_turns=draw.random() < 0.5)):
        taken += got
    assert sorted(taken) == sorted(jobs)


def test_everything_a_job_carries_comes_with_the_claim(desk: Desk) -> None:
    desk.put(
        1, key="k", meta={"a": [1]}, group="g", heartbeat=5, result_ttl=60, failure_ttl=70, retry=3,
        on_success="app.yes", schedule_name="nightly", failure_mode="delete", ttl=100,
    )  # fmt: skip
    (taken,) = desk.claim()
    job = taken.job
    assert not taken.plain
    assert (job.key, job.meta, job.group_key, job.heartbeat_secs) == ("k", {"a": [1]}, "g", 5.0)
    assert (job.result_ttl, job.failure_ttl, job.max_attempts) == (60.0, 70.0, 3)
    assert (job.on_success, job.schedule_name, job.failure_mode) == ("app.yes", "nightly", "delete")
    assert (job.retry_intervals, job.expires_at) == ([0], None)
