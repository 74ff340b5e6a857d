"""Handlers that kill their process, and processes that are killed: what becomes of the job."""

import contextlib
import os
import random
import re
import signal

import pytest

from pgwerk import JobStatus, Retry, Werk
from tests.fixtures.processes import Kind, children, zygote_of
from tests.fixtures.workers import Notes, eventually, running
from tests.workers import handlers, worst_handlers


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_handler_killed_by_a_signal_is_one_failed_attempt_that_names_it(
    app: Werk, hosting: Kind, notes: Notes, number: signal.Signals
) -> None:
    with running(hosting, app, concurrency=1):
        job = app.enqueue(worst_handlers.die, "a", int(number), _retry=Retry(2))
        assert job is not None
        failed = app.wait_for(job, timeout=20)
        assert (failed.status, failed.attempts) == (JobStatus.FAILED, 2)
        pattern = rf"its process was killed by {number.name} \(peak memory \d+ MB\)"
        assert re.fullmatch(pattern, failed.error or ""), failed.error
        executions = app.get_executions(job)
        assert [e.status.value for e in executions] == ["failed", "failed"]
        assert all(re.fullmatch(pattern, e.error or "") for e in executions)
        assert len(set(notes.pids("start a"))) == 2
        assert app.apply(handlers.add, 1, 2, timeout=20) == 3


def test_a_segfault_is_one_failed_attempt_and_the_next_may_succeed(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1):
        job = app.enqueue(handlers.segfault)
        again = app.enqueue(worst_handlers.die_at_first, int(signal.SIGSEGV), _retry=Retry(3))
        assert job is not None
        assert again is not None
        assert "SIGSEGV" in (app.wait_for(job, timeout=20).error or "")
        done = app.wait_for(again, timeout=20)
        assert (done.status, done.result, done.error) == (JobStatus.COMPLETE, 2, None)


def test_the_peak_memory_of_a_killed_process_is_told(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1):
        job = app.enqueue(worst_handlers.eat_and_die, 200)
        assert job is not None
        found = re.search(r"peak memory (\d+) MB", app.wait_for(job, timeout=30).error or "")
    assert found is not None
    assert 200 <= int(found[1]) < 600


@pytest.mark.parametrize("code", [0, 7])
def test_a_handler_that_exits_its_process_is_one_failed_attempt(app: Werk, hosting: Kind, code: int) -> None:
    with running(hosting, app, concurrency=1):
        job = app.enqueue(handlers.exit_hard, code)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
        assert (failed.status, failed.attempts) == (JobStatus.FAILED, 1)
        assert f"its process exited with {code} (peak memory" in (failed.error or "")
        assert app.apply(handlers.add, 1, 2, timeout=20) == 3


def test_a_death_costs_only_the_job_of_that_process(app: Werk, hosting: Kind, notes: Notes) -> None:
    with running(hosting, app, concurrency=3):
        others = [app.enqueue(handlers.long_nap, name, 1.0) for name in ("a", "b")]
        notes.wait("start a")
        notes.wait("start b")
        bad = app.enqueue(handlers.segfault)
        assert bad is not None
        assert app.wait_for(bad, timeout=20).status is JobStatus.FAILED
        for job in others:
            assert job is not None
            done = app.wait_for(job, timeout=20)
            assert (done.status, done.attempts) == (JobStatus.COMPLETE, 1)


def test_a_death_is_noticed_though_a_process_of_the_handlers_lives_on(app: Werk, hosting: Kind, notes: Notes) -> None:
    with running(hosting, app, concurrency=1):
        job = app.enqueue(worst_handlers.leaves_a_process_and_dies)
        assert job is not None
        failed = app.wait_for(job, timeout=10)
        assert "SIGSEGV" in (failed.error or "")
        notes.wait("left")
        os.kill(notes.pids("left")[0], signal.SIGKILL)


def test_a_handler_that_closes_every_descriptor_fails_and_its_process_goes(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1):
        job = app.enqueue(worst_handlers.closes_everything)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
        assert failed.status is JobStatus.FAILED
        assert "hung up" in (failed.error or "")
        assert app.apply(handlers.add, 1, 2, timeout=20) == 3


def test_a_process_that_is_killed_between_jobs_costs_no_attempt(app: Werk, hosting: Kind) -> None:
    with running(hosting, app, concurrency=1) as worker:
        assert app.apply(handlers.add, 1, 2, timeout=20) == 3
        for _ in range(5):
            victims = eventually(lambda: children(zygote_of(worker), zombies=False))
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            job = app.enqueue(handlers.add, 3, 4)
            assert job is not None
            done = app.wait_for(job, timeout=20)
            assert (done.status, done.attempts) == (JobStatus.COMPLETE, 1)


@pytest.mark.slow
def test_two_hundred_jobs_end_with_the_right_attempts_when_processes_are_killed_at_random(
    app: Werk, hosting: Kind, notes: Notes
) -> None:
    jobs = [app.enqueue(handlers.slow, str(number), 0.02, _retry=Retry(50)) for number in range(200)]
    killed = 0
    with running(hosting, app, concurrency=4) as worker:
        while app.get_queue_stats()[0].counts.get("complete", 0) < len(jobs):
            # Not for ever: on a slow machine one job would use up its attempts.
            victims = children(zygote_of(worker), zombies=False)
            if victims and killed < 60:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(random.choice(sorted(victims)), signal.SIGKILL)
                    killed += 1
    assert killed > 10
    lost = 0
    for job in jobs:
        assert job is not None
        done = app.get_job(job)
        assert done.status is JobStatus.COMPLETE
        executions = app.get_executions(job)
        assert [e.attempt for e in executions] == list(range(1, done.attempts + 1))
        assert [e.status.value for e in executions] == ["failed"] * (done.attempts - 1) + ["complete"]
        assert all("was killed by SIGKILL" in (e.error or "") for e in executions[:-1])
        lost += done.attempts - 1
        assert notes.count(f"end {job.args[0]}") in range(1, done.attempts + 1)
        assert notes.count(f"start {job.args[0]}") <= done.attempts
    assert 0 < lost <= killed
