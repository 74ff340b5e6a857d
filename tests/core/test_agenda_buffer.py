"""The agenda's buffer: how much is claimed ahead, when it is filled, and when it is given back."""

import pytest

from pgwerk._core.agenda import GATHER, MAX_CLAIM, STALE_BUFFER, Agenda, Pace
from pgwerk._core.rate import MAX_BUFFER, STEEP

PACE = Pace(concurrency=10, heartbeat=10, poll=5, sweep=60, abort=1, shutdown=30)


def busy(rate: float = 10_000.0) -> tuple[Agenda, float]:
    """An agenda that has seen fast jobs."""
    agenda = Agenda(PACE, 0.0)
    now = 0.0
    for _ in range(50):
        plan = agenda.plan(now)
        if plan.claim:
            agenda.claiming()
            agenda.claimed(plan.claim, plan.claim, now)
        now += 0.005
        agenda.finished(min(agenda.held, int(rate * 0.005)), now)
        now += 0.002  # until the next claim nothing runs
    return agenda, now


def test_slow_jobs_have_no_buffer() -> None:
    agenda = Agenda(PACE, 0.0)
    now = 0.0
    for _ in range(30):
        plan = agenda.plan(now)
        agenda.claiming()
        agenda.claimed(plan.claim or 1, plan.claim, now)
        assert agenda.held <= PACE.concurrency
        now += 1.0
        agenda.finished(min(5, agenda.held), now)
    assert agenda.buffer == 0


def test_fast_jobs_are_claimed_ahead_about_fifty_milliseconds_of_them() -> None:
    agenda, _ = busy(4000)
    assert 0.5 * 4000 * 0.05 <= agenda.buffer <= 4000 * 0.05
    agenda, _ = busy(1_000_000)
    assert agenda.buffer <= MAX_BUFFER


def test_the_buffer_is_claimed_by_halves_so_that_handlers_have_something_to_run_meanwhile() -> None:
    agenda, now = busy(1_000_000)
    agenda.finished(agenda.held, now)
    half = agenda.plan(now).claim
    assert 0.4 * agenda.buffer <= half <= MAX_CLAIM
    agenda.claiming()
    agenda.claimed(half, half, now)
    agenda.turned(now)
    again = agenda.plan(now)
    assert again.claim >= half, "the first half runs while the second is claimed"
    agenda.claiming()
    agenda.claimed(again.claim, again.claim, now)
    agenda.turned(now)
    plan = agenda.plan(now)
    assert plan.claim == 0
    # Next when half of it is over: not for the first outcome.
    assert half - PACE.concurrency <= plan.gather <= half + 1
    agenda.finished(plan.gather, now + 0.001)
    assert agenda.plan(now + 0.001).claim >= half


def test_outcomes_wait_for_company_only_a_moment_and_only_while_jobs_wait_for_a_slot() -> None:
    agenda, now = busy()
    agenda.notified()
    claim = agenda.plan(now).claim
    agenda.claiming()
    agenda.claimed(claim, claim - 1, now)
    agenda.turned(now)
    assert agenda.held > PACE.concurrency
    plan = agenda.plan(now + 0.001)
    assert plan.claim == 0
    assert plan.gather
    assert plan.wait < GATHER
    assert not agenda.plan(now + GATHER + 0.001).gather
    agenda.finished(agenda.held - PACE.concurrency, now + 0.002)
    assert not agenda.plan(now + 0.002).gather


def test_the_observed_rate_is_not_believed_on_the_word_of_a_few() -> None:
    agenda = Agenda(PACE, 0.0)
    now = 0.0
    buffers = []
    for _ in range(4):
        agenda.notified()
        plan = agenda.plan(now)
        agenda.claiming()
        agenda.claimed(plan.claim, plan.claim, now)
        now += 0.0001
        agenda.finished(agenda.held, now)
        buffers.append(agenda.buffer)
    assert buffers[0] <= 2 * STEEP * PACE.concurrency
    assert buffers[-1] == MAX_BUFFER


def test_a_buffer_that_nobody_starts_is_given_back_once() -> None:
    agenda, now = busy()
    agenda.notified()
    plan = agenda.plan(now)
    agenda.claiming()
    agenda.claimed(plan.claim, plan.claim, now)
    assert agenda.held > PACE.concurrency
    assert not agenda.plan(now + STALE_BUFFER * 0.9).return_buffer
    late = now + STALE_BUFFER + 0.01
    assert agenda.plan(late).return_buffer
    again = agenda.plan(late)
    assert not again.return_buffer
    assert again.wait > 0
    agenda.finished(agenda.held - PACE.concurrency, late)
    assert agenda.buffer == 0


def test_answers_about_no_job_do_not_make_a_buffer_look_alive() -> None:
    agenda, now = busy()
    for _ in range(20):
        now += STALE_BUFFER / 10
        agenda.finished(0, now)
        plan = agenda.plan(now)
        if plan.return_buffer:
            break
    else:
        pytest.fail("the buffer was kept")
    assert plan.claim == 0, "it would bring back what is given back"
    back = agenda.held - PACE.concurrency
    agenda.finished(back, now + 0.05)
    assert agenda.buffer == 0, "giving back says nothing about how fast jobs are"
    agenda.finished(1, now + 0.1)
    agenda.notified()
    assert agenda.plan(now + 0.1).claim <= 3
