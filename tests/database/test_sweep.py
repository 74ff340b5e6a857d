"""What a sweep mends apart from the jobs of the dead: what is due, expired, over or left behind."""

import pytest

from pgwerk._core.procedures import sweep
from pgwerk._core.statements import upkeep, workers
from tests.database.builders import LIVE, OTHER, WORKER, Desk, new


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


@pytest.mark.postgres
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
    desk.die()
    desk.sql("update {jobs} set status = 'waiting' where payload->'args'->>0 = '5'")
    desk.sweep()
    again = desk.sweep()
    assert (again.recovered, again.promoted, again.expired, again.released, again.deleted) == ([], 0, 0, 0, 0)


@pytest.mark.postgres
def test_sweeps_at_once_do_not_fail(desk: Desk) -> None:
    desk.live()
    desk.send([new(n, group=f"g{n % 3}", retry=2, ttl=1) for n in range(20)])
    desk.claim(10)
    desk.die()
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
    desk.die()
    assert [one.status for one in desk.run(workers.roster())] == ["lost", "stopped"]
