"""Recovery: jobs of dead workers come back, those of living ones stay; the sweep may run any number of times."""

import pytest

from pgwerk._core.operations import recover as op
from pgwerk._core.operations.settle import settle
from pgwerk._core.outcome import Lost
from pgwerk._core.procedures import sweep
from pgwerk._core.statements import running, upkeep, workers
from tests.database.builders import LIVE, OTHER, WORKER, Desk, failed, new, report


def recover(desk: Desk, live: float = LIVE) -> sweep.Swept:
    return desk.run.perform(sweep.recover(live))


def die(desk: Desk, worker: str = WORKER) -> None:
    desk.sql("update {worker} set expires_at = now() - interval '1 second' where id = %s", worker)


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
    die(desk)
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
        die(desk)
        recover(desk)
    row = desk.row(job_id)
    assert (row["status"], row["lost"], row["attempts"], starts) == ("failed", 4, 1, 5)
    assert row["error"] == "worker lost: it was not heard of in time; it was lost 4 times, and max_lost is 3"
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
    die(desk)
    assert sorted(recover(desk).recovered) == sorted([three.job.id, four.job.id])
    assert desk.statuses(one, two, three) == ["complete", "active", "queued"]
    assert desk.row(two)["claim_id"] == again.claim


def test_an_aborting_job_of_a_dead_worker_ends_aborted(desk: Desk) -> None:
    desk.live()
    taken = desk.take(retry=5)
    desk.sql("update {jobs} set status = 'aborting'")
    die(desk)
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


def test_two_recoveries_at_once_recover_each_job_once(desk: Desk) -> None:
    desk.live()
    taken = [desk.take(n, retry=5) for n in range(6)]
    die(desk)
    one, two = desk.run.peer(), desk.run.peer()
    one.begin()
    first = one.run(op.recover_lost(LIVE))
    two.launch(op.recover_worker(WORKER, "gone"))
    one.commit()
    second = two.finish()
    assert sorted(first.jobs + second.jobs) == sorted(one.job.id for one in taken)
    assert [len(desk.executions(one)) for one in taken] == [1] * 6


def test_a_recovery_and_the_late_settle_of_the_worker_agree(desk: Desk) -> None:
    desk.live()
    for first in ("settle", "recover"):
        taken = desk.take(retry=2)
        die(desk)
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
    desk.ago(taken, 10 + upkeep.OVERDUE_GRACE - 3, "started_at")
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


# Time passes ----------------------------------------------------------------------


def test_due_jobs_are_promoted_in_order_and_the_next_one_is_announced(desk: Desk) -> None:
    soon, later = desk.put(1, delay=30), desk.put(2, delay=60)
    promoted = desk.run(upkeep.promote(10))
    assert promoted.moved == 0
    assert promoted.next_due == pytest.approx(30, abs=2)
    desk.ago(soon, 31, "scheduled_at")
    promoted = desk.run(upkeep.promote(10))
    assert promoted.moved == 1
    assert promoted.next_due == pytest.approx(60, abs=2)
    assert desk.statuses(soon, later) == ["queued", "scheduled"]
    desk.ago(later, 61, "scheduled_at")
    assert desk.run(upkeep.promote(10)) == (1, None)


def test_promotions_at_once_share_the_work(desk: Desk) -> None:
    desk.send([new(n, delay=1) for n in range(10)])
    desk.sql("update {jobs} set scheduled_at = now() - interval '1 second'")
    one, two = desk.run.peer(), desk.run.peer()
    one.begin()
    assert one.run(upkeep.promote(4)).moved == 4
    assert two.run(upkeep.promote(100)).moved == 6
    one.commit()
    assert desk.one("select count(*) from {jobs} where status = 'queued'") == 10


def test_promoting_more_than_a_batch_promotes_all(desk: Desk) -> None:
    desk.sql("insert into {jobs} (function, status, scheduled_at) "
             "select 'f', 'scheduled', now() - interval '1 second' from generate_series(1, 2500)")  # fmt: skip
    assert desk.perform_promote() == 2500


def test_a_scheduled_job_cancelled_meanwhile_is_not_promoted(desk: Desk) -> None:
    job_id = desk.put(delay=5)
    desk.ago(job_id, 10, "scheduled_at")
    desk.sql("update {jobs} set status = 'aborted'")
    assert desk.perform_promote() == 0
    assert desk.status(job_id) == "aborted"


def test_expired_jobs_end_in_the_sweep_with_their_callbacks(desk: Desk) -> None:
    jobs = [desk.put(ttl=5, on_stopped="app.stopped"), desk.put(ttl=5, delay=1)]
    running = desk.take(3, ttl=5, priority=9)
    desk.live()
    for job_id in jobs:
        desk.ago(job_id, 10, "scheduled_at", "expires_at")
    # One scheduled in the past is promoted first; it expires all the same.
    assert desk.sweep().expired == 2
    assert desk.statuses(*jobs, running) == ["aborted", "aborted", "active"]
    assert [desk.row(job_id)["error"] for job_id in jobs] == ["expired", "expired"]
    assert desk.one("select function from {jobs} where callback_of = %s", jobs[0]) == "app.stopped"


def test_outlived_rows_are_deleted_by_the_sweep(desk: Desk) -> None:
    kept, gone = desk.take(1, result_ttl=600), desk.take(2, result_ttl=0)
    desk.end(kept)
    desk.end(gone)
    assert desk.sweep().deleted == 1
    assert desk.statuses(kept, gone) == ["complete", None]
    assert desk.count("executions") == 1


def test_sweeping_more_than_a_batch_sweeps_all(desk: Desk) -> None:
    desk.sql("insert into {jobs} (function, expires_at) "
             "select 'f', now() - interval '1 second' from generate_series(1, 1203)")  # fmt: skip
    desk.sql("insert into {jobs} (function, status, expires_at) "
             "select 'f', 'complete', now() - interval '1 second' from generate_series(1, 1203)")  # fmt: skip
    swept = desk.sweep()
    assert (swept.expired, swept.deleted) == (1203, 1203)
    assert desk.sweep() == sweep.Swept()


def test_a_second_sweep_finds_nothing(desk: Desk) -> None:
    desk.live()
    desk.take(1, group="g", retry=2)
    desk.put(2, group="g")
    desk.claim()
    desk.put(3, ttl=1, delay=1)
    desk.put(4, depends_on=desk.put(5))
    die(desk)
    desk.sql("update {jobs} set status = 'waiting' where payload->'args'->>0 = '5'")
    desk.sweep()
    again = desk.sweep()
    assert (again.recovered, again.promoted, again.expired, again.released, again.deleted) == ([], 0, 0, 0, 0)


def test_sweeps_at_once_do_not_fail(desk: Desk) -> None:
    desk.live()
    desk.send([new(n, group=f"g{n % 3}", retry=2, ttl=1) for n in range(20)])
    desk.claim(10)
    die(desk)
    desk.sql("update {jobs} set expires_at = now() - interval '1 second' where status = 'queued'")
    peers = [desk.run.peer() for _ in range(3)]
    for peer in peers:
        peer.perform_later(sweep.sweep(LIVE, 3600))
    swept = [peer.finish() for peer in peers]
    assert sum(len(one.recovered) for one in swept) == 3
    assert desk.one("select count(*) from {jobs} where status = 'active'") == 0


# Workers --------------------------------------------------------------------------


def test_a_worker_is_listed_while_it_lives_and_after(desk: Desk) -> None:
    desk.run(workers.register(WORKER, "one.1", ["a", "b"], {"pid": 1}, LIVE))
    desk.run(workers.register(OTHER, "two.2", ["c"], {}, LIVE))
    desk.put(queue="a")
    desk.claim(1, "a")
    desk.run(workers.leave(OTHER))
    one, two = desk.run(workers.roster())
    assert (one.id, one.name, one.queue, one.status, one.metadata, one.active) == (
        WORKER,
        "one.1",
        "a,b",
        "active",
        {"pid": 1},
        1,
    )
    assert (two.name, two.status, two.active) == ("two.2", "stopped", 0)
    die(desk)
    assert [one.status for one in desk.run(workers.roster())] == ["lost", "stopped"]


def test_a_heartbeat_says_when_the_next_other_worker_expires(desk: Desk) -> None:
    assert desk.run(workers.heartbeat(WORKER, LIVE)) == (False, None, False)
    desk.live()
    desk.run(workers.doze(WORKER))
    assert desk.run(workers.heartbeat(WORKER, LIVE)) == (True, None, True)
    desk.run(workers.rouse(WORKER))
    desk.live(OTHER, seconds=5)
    known, expiry, idle = desk.run(workers.heartbeat(WORKER, LIVE))
    assert (known, idle) == (True, False)
    assert expiry == pytest.approx(5, abs=1)
    assert desk.run(workers.living(OTHER))
    die(desk, OTHER)
    assert not desk.run(workers.living(OTHER))
    assert desk.run(workers.bury([])) == ["host.b"]
    assert desk.run(workers.bury([])) == []


def look(desk: Desk, seen: float | None) -> sweep.Swept:
    """Look for the dead, having been there for *seen* seconds."""
    return desk.run.perform(sweep.recover(LIVE, seen=seen))


def silent_for(desk: Desk, seconds: float, worker: str = WORKER) -> None:
    """It is so long ago that its time was over."""
    desk.sql(
        "update {worker} set heartbeat_at = now() - %s * interval '1 second',"
        " expires_at = now() - %s * interval '1 second' where id = %s",
        LIVE + seconds, seconds, worker,
    )  # fmt: skip


@pytest.mark.parametrize("seen", [None, 0.0, LIVE - 1])
def test_who_was_not_there_to_hear_a_worker_does_not_take_it_for_dead(desk: Desk, seen: float | None) -> None:
    desk.live()
    taken = desk.take(retry=2)
    silent_for(desk, 3600)
    for _ in range(3):
        assert look(desk, seen) == sweep.Swept()
    assert desk.status(taken) == "active"
    assert look(desk, LIVE + 1).recovered == [taken.job.id], "this one was"


def test_a_silence_that_was_noted_ends_with_a_heartbeat_or_after_its_time(desk: Desk) -> None:
    desk.live()
    taken = desk.take(retry=2)
    silent_for(desk, 3600)
    assert look(desk, None) == sweep.Swept()
    noted = "update {worker} set metadata = metadata || jsonb_build_object('silent_at', extract(epoch from now()) - %s)"
    for revive in (workers.renew([WORKER], LIVE), workers.heartbeat(WORKER, LIVE)):
        desk.sql(noted, LIVE + 1)
        desk.run(revive)
        silent_for(desk, 1)
        assert look(desk, None) == sweep.Swept(), "it was heard of in between"
    desk.sql(noted, LIVE - 1)
    assert look(desk, None) == sweep.Swept()
    # From before the server was started: who could have heard it then?
    desk.sql(noted, 1e9)
    assert look(desk, None) == sweep.Swept()
    desk.sql(noted, LIVE + 1)
    uptime = desk.sql("select extract(epoch from now() - pg_postmaster_start_time())::float8")[0][0]
    assert bool(look(desk, None).recovered) is (uptime > LIVE + 1)
    assert taken.job.id


def test_what_a_row_says_of_its_silence_can_be_anything(desk: Desk) -> None:
    desk.live()
    silent_for(desk, 10)
    for value in ('"soon"', "null", "[]", "1e300", "-1"):
        desk.sql("update {worker} set metadata = jsonb_build_object('silent_at', %s::jsonb)", value)
        assert look(desk, None) == sweep.Swept()
    assert "silent_at" not in desk.run(workers.roster())[0].metadata


def test_a_worker_that_says_goodbye_late_stays_gone(desk: Desk) -> None:
    desk.live()
    desk.run(workers.leave(WORKER))
    assert not desk.run(workers.heartbeat(WORKER, LIVE)).known
    assert desk.run(workers.roster())[0].status == "stopped"


def test_a_job_is_late_only_when_its_lateness_could_be_heard_of(desk: Desk) -> None:
    desk.live()
    taken = desk.take(retry=2, heartbeat=10)
    timed = desk.take(retry=2, timeout=10)
    desk.ago(taken, 3600, "touched_at")
    desk.ago(timed, 3600, "started_at")
    assert look(desk, 1.0) == sweep.Swept()
    assert look(desk, 11.0).recovered == [taken.job.id]
    assert look(desk, upkeep.OVERDUE_GRACE + 1).recovered == [timed.job.id]


def test_an_unknown_worker_may_be_one_whose_row_was_lost(desk: Desk) -> None:
    taken = desk.take(retry=2)
    desk.sql("update {claims} set claimed_at = now() - interval '1 day'")
    assert look(desk, LIVE - 1) == sweep.Swept()
    assert look(desk, LIVE + 1).recovered == [taken.job.id]


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
    desk.run(workers.doze(WORKER))
    desk.run(workers.doze(OTHER))
    desk.run(workers.doze(OTHER))
    die(desk, OTHER)
    desk.run(workers.bury([]))
    assert desk.sql("select worker_id::text from {idle}") == [(WORKER,)]
    desk.run(workers.leave(WORKER))
    assert desk.count("idle") == 0


def test_a_lost_job_with_attempts_left_keeps_its_place(desk: Desk) -> None:
    taken = desk.take(retry=2)
    place = desk.row(taken)["scheduled_at"]
    desk.end(taken, Lost("worker lost"))
    assert desk.row(taken)["scheduled_at"] == place
