"""Repetitions and callbacks: none lost, none doubled, whatever dies meanwhile."""

import os
import random
import signal
import time
from typing import Any

import pytest

from pgwerk import Callback, JobStatus, Repeat, Retry, Werk
from tests.exactness import handlers
from tests.exactness.helpers import Outside, Start, enqueued, expect
from tests.fixtures.workers import Notes, burst, eventually, living_workers, thread_worker

pytestmark = pytest.mark.in_memory


@pytest.mark.slow
def test_no_repetition_is_lost_or_doubled_and_every_callback_runs_while_workers_are_killed_again_and_again(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    chains, times = 8, 5
    process = worker_process(processes=3, concurrency=6)
    living_workers(app, 3)
    for number in range(chains):
        _ = app.enqueue(
            handlers.repeating, str(number), _repeat=Repeat(times, 0.02), _meta={"name": str(number)},
            _key=f"k{number}", _retry=Retry(1, lost=100), _on_success=Callback(handlers.on_end, timeout=30),
            _priority=3, _timeout=60, _group=f"g{number % 3}",
        )  # fmt: skip
    draw = random.Random()
    killed = 0
    deadline = time.monotonic() + 60
    total = chains * (times + 1)
    runs = "function like '%%repeating'"
    while outside.count(f"{runs} and status = 'complete'") < total and time.monotonic() < deadline:
        done = outside.count(f"{runs} and status = 'complete'")
        children = process.children()
        if children and killed < 12:
            os.kill(draw.choice(children), signal.SIGKILL)
            killed += 1
        # The next one dies when something has gone on.
        eventually(lambda: outside.count(f"{runs} and status = 'complete'") > done or done >= total, 30)  # noqa: B023
        time.sleep(draw.uniform(0, 0.1))  # not to wait for anything: to hit another place
    assert killed >= 8
    eventually(lambda: outside.count("callback_of is not null and status = 'complete'") == total, 30)
    rows = outside.sql(
        "select meta->>'name', repeat_remaining, key, count(*), min(status), max(status) from {jobs} "
        f"where {runs} group by 1, 2, 3"
    )
    assert sorted((name, left, key, n, least, most) for name, left, key, n, least, most in rows) == sorted(
        (str(number), left, f"k{number}" if left == 0 else None, 1, "complete", "complete")
        for number in range(chains)
        for left in range(times + 1)
    )
    options = outside.sql(
        "select distinct priority, timeout_secs, max_attempts, on_success, on_success_timeout, repeat_interval_secs,"
        f" retry_intervals::text from {{jobs}} where {runs}"
    )
    assert len(options) == 1, options
    told = set(notes.all())
    for (id_,) in outside.sql(f"select id::text from {{jobs}} where {runs}"):
        assert f"callback complete {id_}" in told
    outside.nothing_is_left_behind()


def test_a_callback_whose_worker_dies_in_the_middle_runs_again_until_it_has_run(
    app: Werk, worker_process: Start, notes: Notes, outside: Outside
) -> None:
    worker_process(processes=1, concurrency=1)
    job = enqueued(app.enqueue(handlers.fails, _on_failure=handlers.dying_callback, _failure_mode="delete"))
    notes.wait(f"callback ends {job.id}")
    eventually(lambda: outside.count("id = %s", job.id) == 0, what="the deletion after the callback")
    assert notes.count(f"callback begins {job.id}") == 3
    outside.nothing_is_left_behind()


@pytest.mark.parametrize("kind", ["success", "failure", "stopped"])
def test_each_callback_sees_the_settled_job(app: Werk, notes: Notes, kind: str) -> None:
    callbacks: dict[str, Any] = {
        "_on_success": handlers.on_end,
        "_on_failure": handlers.on_end,
        "_on_stopped": handlers.on_end,
    }
    handler = handlers.fails if kind == "failure" else handlers.noop
    job = enqueued(app.enqueue(handler, _delay=3600 if kind == "stopped" else None, **callbacks))
    if kind == "stopped":
        assert app.cancel_job(job)
    burst(app)
    status = {"success": "complete", "failure": "failed", "stopped": "aborted"}[kind]
    assert notes.all() == [f"callback {status} {job.id}"]


def test_a_callback_that_runs_too_long_is_stopped_at_its_own_timeout_and_the_job_stays_as_it_was(
    app: Werk, notes: Notes, outside: Outside
) -> None:
    with thread_worker(app):
        job = enqueued(app.enqueue(handlers.noop, _timeout=60, _on_success=Callback(endless_callback, timeout=0.2)))
        expect(app, job, JobStatus.COMPLETE)
        eventually(lambda: outside.count("callback_of is not null and status = 'failed'") == 1)
    assert "timed out after 0.2 s" in str(outside.one("select error from {jobs} where callback_of is not null"))


def endless_callback(_job: object) -> None:
    handlers.nap(60)


def test_a_failing_repetition_ends_the_series_and_an_aborted_one_too(app: Werk, outside: Outside) -> None:
    fails = enqueued(app.enqueue(handlers.fails, _repeat=Repeat(3), _key="fails"))
    stopped = enqueued(app.enqueue(handlers.noop, _repeat=Repeat(3), _key="stopped", _delay=3600))
    assert app.cancel_job(stopped)
    burst(app)
    assert app.get_job(fails).status is JobStatus.FAILED
    assert outside.count() == 2


def test_a_key_is_free_for_nobody_else_while_the_series_goes_on(app: Werk, outside: Outside) -> None:
    _ = app.enqueue(handlers.noop, _repeat=Repeat(30, 0.01), _key="series")
    others = 0
    with thread_worker(app):
        while outside.count("status = 'complete'") < 31:
            others += app.enqueue(handlers.fails, _key="series") is not None
    assert others == 0
    assert outside.count() == 31
