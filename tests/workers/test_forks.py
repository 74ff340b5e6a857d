"""One fresh process a job."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgwerk import ForkWorker, JobStatus, Werk, WerkConfig
from tests.fixtures.workers import Notes, WorkerProcess, eventually, running
from tests.workers import handlers, worst_handlers


def test_each_job_has_a_process_of_its_own_that_finds_nothing_of_the_job_before(app: Werk) -> None:
    with running(ForkWorker, app, concurrency=2):
        pids = app.map(worst_handlers.pid, [{}] * 20, timeout=20)
        assert len(set(pids)) == 20
        assert app.map(worst_handlers.calls, [{}] * 10, timeout=20) == [1] * 10


def test_processes_draw_different_random_numbers(app: Werk) -> None:
    with running(ForkWorker, app, concurrency=2):
        assert len(set(app.map(worst_handlers.draw, [{}] * 10, timeout=20))) == 10


def test_a_process_ends_and_is_reaped_when_its_job_has_ended(app: Werk) -> None:
    with running(ForkWorker, app, concurrency=1):
        pid = app.apply(worst_handlers.pid, timeout=20)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), 5)


def test_sigterm_grace_is_how_long_a_handler_has_from_term_to_kill(app: Werk, notes: Notes) -> None:
    with running(ForkWorker, app, concurrency=1, sigterm_grace=0.4):
        job = app.enqueue(worst_handlers.swallows, "a", 60, _timeout=0.3)
        assert job is not None
        failed = app.wait_for(job, timeout=20)
    assert failed.status is JobStatus.FAILED
    took = time.time() - notes.times("start a")[0]
    assert 0.6 < took < 3
    assert notes.all() == ["start a", "swallowed JobTimeout"]


def test_sigterm_grace_comes_from_the_config_unless_it_is_given(dsn: str, schema: str) -> None:
    app = Werk(dsn, schema=schema, config=WerkConfig(sigterm_grace=1.5))
    assert ForkWorker(app).limits.grace == 1.5
    assert ForkWorker(app, sigterm_grace=0).limits.grace == 0
    with pytest.raises(ValueError, match="sigterm_grace"):
        ForkWorker(app, sigterm_grace=-1)


def cpu_seconds(process: WorkerProcess) -> float:
    """What a worker and all its processes have used, when they have ended."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.wait() == 0, process.output()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.timing
def test_a_hundred_jobs_a_second_on_one_core(app: Werk, worker_process: Callable[..., WorkerProcess]) -> None:
    idle = cpu_seconds(worker_process(kind="fork", concurrency=2, burst=True))
    for _ in range(300):
        app.enqueue(handlers.noop)
    busy = cpu_seconds(worker_process(kind="fork", concurrency=2, burst=True))
    assert [stats.counts for stats in app.get_queue_stats()] == [{"complete": 300}]
    # The time on the clock would depend on who else works. Alone, 300 jobs take less than two seconds; beside others
    # a fork costs up to twice as much.
    assert busy - idle < 4.5
