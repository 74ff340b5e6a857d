"""Recovery: jobs of dead workers come back, those of living ones stay; the sweep may run any number of times."""

import pytest

from pgwerk._core.operations import recover as op
from pgwerk._core.operations.settle import settle
from pgwerk._core.outcome import Lost
from pgwerk._core.procedures import sweep
from pgwerk._core.statements import recovery, running, workers
from tests.database.builders import LIVE, OTHER, WORKER, Desk, failed, new, report


def recover(desk: Desk, live: float = LIVE) -> sweep.Swept:
    return desk.run.perform(sweep.recover(live))


def test_jobs_of_a_living_worker_stay(desk: Desk) -> None:
    desk.live()
    taken = desk.take()
    desk.ago(taken, 100_000, "started_at", "touched_at")
    desk.sql("update {claims} set claimed_at = now() - interval '1 day'")
    assert recover(desk) == sweep.Swept()
    assert desk.sweep().recovered == []
    assert desk.status(taken) == "active"


def test_a_heartbeat_sent_for_others_reaches_those_that_live_and_revives_nobody(desk: Desk) -> None:
    desk.live()
    taken = desk.take(retry=2)
    desk.sql("update {worker} set expires_at = now() + interval '1 second'")
    desk.run(workers.renew([WORKER, OTHER], LIVE))
    ((left,),) = desk.sql("select extract(epoch from expires_at - now())::float8 from {worker}")
    assert LIVE - 1 < left <= LIVE
    desk.run(workers.leave(WORKER))
    desk.run(workers.renew([WORKER], LIVE))
    assert desk.sql("select status, expires_at <= now() from {worker}") == [("stopped", True)]
    assert recover(desk).recovered == [taken.job.id]


def test_jobs_of_a_worker_not_heard_of_run_again(desk: Desk) -> None:
    desk.live()
    taken = desk.take(retry=2, group="g")
    desk.die()
    swept = recover(desk)
    assert (swept.recovered, swept.lost_workers) == ([taken.job.id], ["host.a"])
    row = desk.row(taken)
    assert (row["status"], row["attempts"], row["worker_id"]) == ("queued", 0, None)
    assert row["error"].startswith("worker lost")
    assert desk.executions(taken) == [(1, "failed")]
    assert (desk.count("claims"), desk.count("permits")) == (0, 0)
    assert recover(desk) == sweep.Swept()


def test_a_job_that_kills_its_workers_is_poison_after_so_many_losses(desk: Desk) -> None:
    job_id = desk.put(retry=3, on_failure="app.no")
    starts = 0
    while desk.status(job_id) == "queued":
        desk.live()
        (taken,) = desk.claim(1)
        starts += 1
        assert (taken.job.attempts, taken.watched) == (1, starts > 1)
        if taken.watched:
            assert desk.run(running.begin([(job_id, taken.claim)])) == [job_id]
        desk.die()
        recover(desk)
    row = desk.row(job_id)
    assert (row["status"], row["lost"], row["attempts"], starts) == ("failed", 4, 1, 5)
    assert row["error"] == "worker lost: it stopped sending heartbeats; it was lost 4 times, and max_lost is 3"
    assert desk.executions(job_id) == [(1, "failed")] * 5
    assert desk.one("select function from {jobs} where callback_of = %s", job_id) == "app.no"


def test_a_worker_that_stopped_without_giving_back_is_recovered_at_once(desk: Desk) -> None:
    desk.live()
    taken = desk.take()
    desk.run(workers.leave(WORKER))
    assert recover(desk).recovered == [taken.job.id]


def test_an_unknown_worker_is_given_one_liveness_period_from_the_claim(desk: Desk) -> None:
    taken = desk.take(retry=2)
    assert recover(desk).recovered == []
    desk.sql("update {claims} set claimed_at = now() - interval '26 seconds'")
    assert recover(desk, 30).recovered == []
    assert recover(desk, 25).recovered == [taken.job.id]


def test_a_worker_that_registers_again_in_time_keeps_its_jobs(desk: Desk) -> None:
    taken = desk.take()
    desk.sql("update {claims} set claimed_at = now() - interval '1 hour'")
    assert not desk.run(workers.heartbeat(WORKER, LIVE)).known
    desk.live()
    assert recover(desk).recovered == []
    assert desk.status(taken) == "active"


def test_only_active_jobs_of_a_claim_are_recovered(desk: Desk) -> None:
    desk.live()
    desk.send([new(n, retry=3) for n in range(4)])
    one, two, three, four = desk.claim(4)
    desk.end(one)
    desk.end(two, failed())
    (again,) = desk.claim(1, worker=OTHER)
    desk.live(OTHER)
    assert again.job.id == two.job.id
    desk.die()
    assert sorted(recover(desk).recovered) == sorted([three.job.id, four.job.id])
    assert desk.statuses(one, two, three) == ["complete", "active", "queued"]
    assert desk.row(two)["claim_id"] == again.claim


def test_an_aborting_job_of_a_dead_worker_ends_aborted(desk: Desk) -> None:
    desk.live()
    taken = desk.take(retry=5)
    desk.sql("update {jobs} set status = 'aborting'")
    desk.die()
    recover(desk)
    assert desk.status(taken) == "aborted"


def test_a_worker_seen_to_die_is_recovered_at_once(desk: Desk) -> None:
    desk.live()
    desk.live(OTHER)
    mine = desk.take(1, retry=2)
    other = desk.put(2)
    desk.claim(worker=OTHER)
    begun = {(mine.job.id, mine.claim): False}
    assert desk.run.perform(sweep.recover_dead(WORKER, "killed by signal 9", begun)) == [mine.job.id]
    assert desk.statuses(mine, other) == ["queued", "active"]
    assert desk.row(mine)["error"] == "worker lost: killed by signal 9"
    assert desk.one("select status from {worker} where id = %s", WORKER) == "lost"


@pytest.mark.postgres
def test_two_recoveries_at_once_recover_each_job_once(desk: Desk) -> None:
    desk.live()
    taken = [desk.take(n, retry=5) for n in range(6)]
    desk.die()
    one, two = desk.run.peer(), desk.run.peer()
    one.begin()
    first = one.run(op.recover_lost(LIVE))
    two.launch(op.recover_worker(WORKER, "gone"))
    one.commit()
    second = two.finish()
    assert sorted(first.jobs + second.jobs) == sorted(one.job.id for one in taken)
    assert [len(desk.executions(one)) for one in taken] == [1] * 6


@pytest.mark.postgres
def test_a_recovery_and_the_late_settle_of_the_worker_agree(desk: Desk) -> None:
    desk.live()
    for first in ("settle", "recover"):
        taken = desk.take(retry=2)
        desk.die()
        one, two = desk.run.peer(), desk.run.peer()
        late, rescue = settle([report(taken)], WORKER), op.recover_lost(LIVE)
        one.begin()
        _ = one.run(late) if first == "settle" else one.run(rescue)
        two.start(rescue if first == "settle" else late)
        assert two.waits
        one.commit()
        two.finish()
        assert desk.status(taken) == ("complete" if first == "settle" else "queued")
        assert len(desk.executions(taken)) == 1
        desk.sql("delete from {jobs}")
        desk.sql("delete from {claims}")
        desk.live()


def test_a_job_past_its_own_heartbeat_is_recovered_from_a_living_worker(desk: Desk) -> None:
    desk.live()
    taken, patient = desk.take(1, heartbeat=5, retry=2), desk.take(2)
    desk.ago(taken, 4, "touched_at")
    assert recover(desk).recovered == []
    desk.ago(taken, 2, "touched_at")
    desk.ago(patient, 1000, "touched_at")
    assert recover(desk).recovered == [taken.job.id]
    assert "not renewed for 5 s" in desk.row(taken)["error"]
    assert desk.run(running.touch([(taken.job.id, taken.claim)])) == []


def test_a_job_past_its_timeout_and_a_grace_is_recovered(desk: Desk) -> None:
    desk.live()
    taken = desk.take(timeout=10)
    desk.ago(taken, 10 + recovery.OVERDUE_GRACE - 3, "started_at")
    assert recover(desk).recovered == []
    desk.ago(taken, 5, "started_at")
    assert recover(desk).recovered == [taken.job.id]
    assert desk.status(taken) == "failed"
    assert desk.row(taken)["error"].startswith("timed out after 10 s")


@pytest.mark.parametrize("claim", [None, 777])
def test_an_active_row_that_no_claim_knows_is_recovered_after_a_long_time(desk: Desk, claim: int | None) -> None:
    job_id = desk.put(retry=3)
    desk.sql("update {jobs} set status = 'active', claim_id = %s, attempts = 1", claim)
    assert desk.sweep().recovered == []
    desk.ago(job_id, 3700, "scheduled_at")
    assert desk.sweep().recovered == [job_id]
    assert desk.status(job_id) == "queued"
    (again,) = desk.claim()
    assert desk.end(again)


@pytest.mark.parametrize("claim", [None, 777])
@pytest.mark.parametrize(
    ("options", "column", "reason"),
    [
        ({"heartbeat": 5}, "touched_at", "worker lost: nobody holds it, and it was not renewed for 5 s"),
        ({"timeout": 5}, "started_at", "timed out after 5 s, and nobody holds it"),
    ],
)
def test_an_active_row_that_no_claim_knows_is_judged_by_its_own_deadlines(
    desk: Desk, options: dict[str, int], column: str, reason: str, claim: int | None
) -> None:
    job_id = desk.put(**options)
    desk.sql(
        "update {jobs} set status = 'active', claim_id = %s, attempts = 1, started_at = now(), touched_at = now()",
        claim,
    )
    assert desk.sweep().recovered == []
    desk.ago(job_id, 40, column)
    assert desk.sweep().recovered == [job_id]
    row = desk.row(job_id)
    assert (row["status"], row["attempts"], row["error"], row["lost"]) == ("failed", 1, reason, None)


def test_a_foreign_row_without_a_single_time_of_its_start_is_judged_all_the_same(desk: Desk) -> None:
    desk.sql("insert into {jobs} (function, status, heartbeat_secs, scheduled_at) "
             "values ('f', 'active', 5, now() - interval '10 s')")  # fmt: skip
    assert len(desk.sweep().recovered) == 1


def test_claims_whose_jobs_all_ended_are_forgotten(desk: Desk) -> None:
    desk.live()
    ended, running = desk.take(1), desk.take(2)
    desk.end(ended)
    desk.sql("update {claims} set claimed_at = now() - interval '1 hour'")
    desk.sweep()
    assert desk.sql("select id from {claims}") == [(running.claim,)]


def test_workers_that_ended_long_ago_are_forgotten(desk: Desk) -> None:
    desk.live()
    desk.live(OTHER)
    desk.run(workers.leave(OTHER))
    desk.sweep()
    assert desk.count("worker") == 2
    desk.sql("update {worker} set expires_at = now() - interval '2 days' where status = 'stopped'")
    desk.sweep()
    assert desk.count("worker") == 1


def test_a_heartbeat_says_when_the_next_other_worker_expires(desk: Desk) -> None:
    assert desk.run(workers.heartbeat(WORKER, LIVE)) == (False, None, False)
    desk.live()
    desk.run(workers.want_notify(WORKER))
    assert desk.run(workers.heartbeat(WORKER, LIVE)) == (True, None, True)
    desk.run(workers.stop_notify(WORKER))
    desk.live(OTHER, seconds=5)
    known, expiry, idle = desk.run(workers.heartbeat(WORKER, LIVE))
    assert (known, idle) == (True, False)
    assert expiry == pytest.approx(5, abs=1)
    assert desk.run(workers.living(OTHER))
    desk.die(OTHER)
    assert not desk.run(workers.living(OTHER))
    assert desk.run(workers.mark_dead([])) == ["host.b"]
    assert desk.run(workers.mark_dead([])) == []


def test_a_reported_death_leaves_no_worker_behind(desk: Desk) -> None:
    desk.live()
    desk.live(OTHER)
    taken = desk.take(retry=2)
    desk.run(workers.forget(WORKER))
    assert desk.run.perform(sweep.recover_dead(WORKER, "killed")) == [taken.job.id]
    desk.run(workers.forget(WORKER))
    assert [worker.id for worker in desk.run(workers.roster())] == [OTHER]


def test_the_dead_do_not_count_as_asleep(desk: Desk) -> None:
    desk.live()
    desk.live(OTHER)
    desk.run(workers.want_notify(WORKER))
    desk.run(workers.want_notify(OTHER))
    desk.run(workers.want_notify(OTHER))
    desk.die(OTHER)
    desk.run(workers.mark_dead([]))
    assert desk.sql("select worker_id::text from {idle}") == [(WORKER,)]
    desk.run(workers.leave(WORKER))
    assert desk.count("idle") == 0


def test_a_lost_job_with_attempts_left_keeps_its_place(desk: Desk) -> None:
    taken = desk.take(retry=2)
    place = desk.row(taken)["scheduled_at"]
    desk.end(taken, Lost("worker lost"))
    assert desk.row(taken)["scheduled_at"] == place
