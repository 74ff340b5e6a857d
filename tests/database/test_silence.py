"""Who counts as silent: only a worker, or a job, whose silence somebody was there to hear."""

import pytest

from pgwerk._core.procedures import sweep
from pgwerk._core.statements import recovery, workers
from tests.database.builders import LIVE, WORKER, Desk


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
    assert look(desk, recovery.OVERDUE_GRACE + 1).recovered == [timed.job.id]


def test_an_unknown_worker_may_be_one_whose_row_was_lost(desk: Desk) -> None:
    taken = desk.take(retry=2)
    desk.sql("update {claims} set claimed_at = now() - interval '1 day'")
    assert look(desk, LIVE - 1) == sweep.Swept()
    assert look(desk, LIVE + 1).recovered == [taken.job.id]
