"""The agenda: what a worker does next, told any sequence of events."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.agenda import INTERRUPT_GRACE, Agenda, Duty, Pace, Phase, Plan
from pgwerk._core.attention import REPOLLS, SOON, STREAM
from pgwerk._core.rate import MAX_BUFFER

PACE = Pace(concurrency=10, heartbeat=10, poll=5, sweep=60, abort=1, shutdown=30)
CLOSING = (Phase.DRAIN, Phase.GIVE_BACK, Phase.ABANDON)


def settled(pace: Pace = PACE, now: float = 0.0) -> Agenda:
    """An agenda that has done its first duties and found nothing to claim."""
    agenda = Agenda(pace, now)
    plan = agenda.plan(now)
    agenda.claiming()
    agenda.claimed(plan.claim, 0, now)
    for _ in REPOLLS:
        now += 1
        plan = agenda.plan(now)
        if plan.claim:
            agenda.claiming()
            agenda.claimed(plan.claim, 0, now)
    return agenda


def test_a_worker_begins_with_looking_after_things_and_a_claim_of_all_slots() -> None:
    plan = Agenda(PACE, 0.0).plan(0.0)
    assert set(plan.duties) == {Duty.RECOVER, Duty.PROMOTE, Duty.SWEEP}
    assert (plan.claim, plan.wait, plan.finished, plan.phase) == (10, 0.0, False, Phase.RUN)


def test_a_full_claim_is_followed_by_another_as_slots_get_free() -> None:
    agenda = Agenda(PACE, 0.0)
    agenda.plan(0.0)
    agenda.claiming()
    agenda.claimed(10, 10, 0.0)
    assert agenda.plan(0.001).claim == 0
    agenda.finished(3, 0.005)
    assert agenda.plan(0.006).claim == 3
    assert not agenda.dozing


def test_a_short_claim_means_wait_for_news() -> None:
    agenda = Agenda(PACE, 0.0)
    agenda.plan(0.0)
    agenda.claiming()
    agenda.claimed(10, 4, 0.0)
    plan = agenda.plan(0.0)
    assert (plan.claim, agenda.dozing) == (0, True)
    assert 0 < plan.wait <= REPOLLS[0]


def test_a_notification_during_a_claim_is_not_lost() -> None:
    agenda = Agenda(PACE, 0.0)
    agenda.plan(0.0)
    agenda.claiming()
    agenda.notified()
    agenda.claimed(10, 0, 0.0)
    assert agenda.plan(0.0).claim == 10


def test_a_notification_before_a_claim_is_answered_by_it() -> None:
    agenda = Agenda(PACE, 0.0)
    agenda.plan(0.0)
    agenda.notified()
    agenda.claiming()
    agenda.claimed(10, 0, 0.0)
    assert agenda.plan(0.0).claim == 0


def test_denied_jobs_count_as_found_so_that_others_behind_them_are_seen() -> None:
    agenda = Agenda(PACE, 0.0)
    agenda.plan(0.0)
    agenda.claiming()
    agenda.claimed(10, 2, 0.0, denied=8)
    assert agenda.plan(0.0).claim == 8


def test_an_idle_worker_looks_twice_more_before_it_trusts_silence() -> None:
    agenda = Agenda(PACE, 0.0)
    plan = agenda.plan(0.0)
    agenda.claiming()
    agenda.claimed(plan.claim, 0, 0.0)
    asked = []
    now = 0.0
    while now < 4.9:
        plan = agenda.plan(now)
        if plan.claim:
            asked.append(round(now, 2))
            agenda.claiming()
            agenda.claimed(plan.claim, 0, now)
        now += 0.01
    assert asked == [pytest.approx(0.05, abs=0.011), pytest.approx(0.25, abs=0.011)]


def test_an_idle_worker_asks_less_than_once_a_second_and_never_spins() -> None:
    agenda = Agenda(PACE, 0.0)
    now, statements, plans = 0.0, 0, 0
    while now < 600:
        plan = agenda.plan(now)
        plans += 1
        statements += len(plan.duties) + bool(plan.claim)
        if plan.claim:
            agenda.claiming()
            agenda.claimed(plan.claim, 0, now)
        if not plan.duties and not plan.claim:
            assert plan.wait > 0
        now += plan.wait
    assert statements < 600
    assert plans < 1200


@pytest.mark.parametrize(
    ("duty", "interval"),
    [(Duty.HEARTBEAT, 10), (Duty.RECOVER, 10), (Duty.PROMOTE, 5), (Duty.SWEEP, 60), (Duty.ABORTS, 1)],
)
def test_duties_come_at_their_intervals(duty: Duty, interval: float) -> None:
    agenda = Agenda(PACE, 0.0)
    agenda.held = 1
    moments = [tick / 10 for tick in range(200 * 10) if duty in agenda.plan(tick / 10).duties]
    gaps = [b - a for a, b in pairwise(moments)]
    assert all(gap == pytest.approx(interval, abs=0.11) for gap in gaps)
    assert len(moments) >= 200 / interval - 1


def test_aborts_are_only_looked_for_while_something_runs() -> None:
    agenda = settled()
    assert all(Duty.ABORTS not in agenda.plan(5.0 + n / 10).duties for n in range(100))


def test_the_wait_ends_when_the_next_job_is_due() -> None:
    agenda = settled()
    agenda.due_in(0.4, 3.0)
    assert agenda.plan(3.0).wait == pytest.approx(0.4)
    assert Duty.PROMOTE in agenda.plan(3.4).duties
    agenda.due_in(-5, 4.0)
    assert Duty.PROMOTE in agenda.plan(4.0).duties
    agenda.due_in(None, 4.0)
    assert agenda.plan(4.0).wait > 0


def test_a_peer_is_looked_after_when_it_expires() -> None:
    agenda = settled()
    agenda.peers_expire_in(1.0, 3.0)
    assert Duty.RECOVER not in agenda.plan(3.9).duties
    assert Duty.RECOVER in agenda.plan(4.1).duties
    agenda.peers_expire_in(None, 4.1)


def test_a_duty_can_be_brought_forward_but_not_put_off() -> None:
    agenda = settled()
    agenda.do(Duty.SWEEP, 4.0)
    assert Duty.SWEEP in agenda.plan(4.0).duties
    agenda.do(Duty.SWEEP, 500.0)
    assert Duty.SWEEP in agenda.plan(64.1).duties


# The way out ----------------------------------------------------------------------


def test_while_jobs_stream_in_a_worker_looks_by_itself_and_then_wants_to_be_told_again() -> None:
    agenda = settled()
    now = 20.0
    assert agenda.dozing
    for number in range(STREAM):
        agenda.notified()
        agenda.claiming()
        agenda.claimed(10, 3, now)
        agenda.finished(3, now)
        assert agenda.dozing is (number < STREAM - 1)
    assert agenda.plan(now).wait <= SOON
    now += SOON
    assert agenda.plan(now).claim == 10
    agenda.claiming()
    agenda.claimed(10, 0, now)
    assert agenda.dozing


def test_jobs_that_come_one_by_one_are_announced() -> None:
    agenda = settled()
    for _ in range(20):
        agenda.notified()
        agenda.claiming()
        agenda.claimed(10, 1, 20.0)
        agenda.finished(1, 20.0)
        assert agenda.dozing


def holding(jobs: int = 3, pace: Pace = PACE) -> Agenda:
    agenda = Agenda(pace, 0.0)
    agenda.plan(0.0)
    agenda.claiming()
    agenda.claimed(pace.concurrency, jobs, 0.0)
    return agenda


def test_stopping_drains_then_gives_back_then_abandons() -> None:
    agenda = holding()
    agenda.stop(100.0)
    assert agenda.plan(100.0).phase is Phase.DRAIN
    assert agenda.plan(129.9).phase is Phase.DRAIN
    assert agenda.plan(130.0).phase is Phase.GIVE_BACK
    assert agenda.plan(130.0 + INTERRUPT_GRACE - 0.1).phase is Phase.GIVE_BACK
    plan = agenda.plan(130.0 + INTERRUPT_GRACE)
    assert (plan.phase, plan.finished) == (Phase.ABANDON, True), "nothing more is waited for"


def test_a_second_stop_gives_back_at_once_and_more_change_nothing() -> None:
    agenda = holding()
    agenda.stop(100.0)
    agenda.stop(101.0)
    assert agenda.plan(101.0).phase is Phase.GIVE_BACK
    agenda.stop(102.0)
    agenda.stop(102.0)
    assert agenda.plan(101.0 + INTERRUPT_GRACE - 0.1).phase is Phase.GIVE_BACK
    assert agenda.plan(101.0 + INTERRUPT_GRACE).phase is Phase.ABANDON


def test_a_stopping_worker_claims_nothing_and_says_that_it_lives() -> None:
    agenda = holding()
    agenda.stop(1.0)
    agenda.notified()
    seen: set[Duty] = set()
    for tick in range(280):
        plan = agenda.plan(1.0 + tick / 10)
        assert plan.claim == 0
        assert plan.return_buffer
        seen.update(plan.duties)
    assert seen == {Duty.HEARTBEAT, Duty.ABORTS}


def test_a_draining_worker_does_not_spin() -> None:
    agenda = holding(pace=Pace(concurrency=1, shutdown=30))
    now = 2.0
    agenda.stop(now)
    plans = 0
    while now < 31:
        plan = agenda.plan(now)
        assert plan.wait > 0 or plan.duties
        now += plan.wait
        plans += 1
    assert plans < 1000


def test_an_idle_worker_that_is_stopped_has_finished() -> None:
    agenda = settled()
    agenda.stop(5.0)
    assert agenda.plan(5.0).finished


# Burst ----------------------------------------------------------------------------


def test_a_burst_ends_when_nothing_is_queued_or_running() -> None:
    agenda = Agenda(Pace(concurrency=2, burst=True), 0.0)
    plan = agenda.plan(0.0)
    assert not plan.finished
    agenda.claiming()
    agenda.claimed(plan.claim, 2, 0.0)
    assert not agenda.plan(0.1).finished
    agenda.finished(2, 0.2)
    plan = agenda.plan(0.2)
    assert (plan.finished, plan.claim) == (False, 2)
    agenda.claiming()
    agenda.claimed(2, 1, 0.2)
    assert not agenda.plan(0.25).finished
    agenda.finished(1, 0.3)
    plan = agenda.plan(0.3)  # the second look is due
    assert (plan.finished, plan.claim) == (False, 2)
    agenda.claiming()
    agenda.claimed(2, 0, 0.3)
    assert agenda.plan(0.3).finished


def test_a_worker_without_burst_never_finishes_by_itself() -> None:
    agenda = settled()
    assert not any(agenda.plan(5.0 + n).finished for n in range(100))


# Anything at all ------------------------------------------------------------------

EVENTS = st.one_of(
    st.tuples(st.just("claim"), st.integers(0, 600), st.booleans()),
    st.tuples(st.just("finish"), st.integers(1, 600), st.booleans()),
    st.tuples(st.just("notify"), st.just(0), st.booleans()),
    st.tuples(st.just("due"), st.integers(-5, 100), st.booleans()),
    st.tuples(st.just("peers"), st.integers(-5, 100), st.booleans()),
    st.tuples(st.just("pass"), st.integers(0, 5000), st.booleans()),
)
PACES = st.builds(
    Pace, concurrency=st.integers(1, 50), burst=st.booleans(), poll=st.floats(0.01, 10), shutdown=st.floats(0.1, 30)
)


def check(agenda: Agenda, plan: Plan, held: int) -> None:
    assert plan.wait >= 0
    assert math.isfinite(plan.wait)
    assert plan.claim >= 0
    assert held + plan.claim <= agenda.pace.concurrency + max(agenda.buffer, 0) or plan.claim == 0
    # What is abandoned in the end is given back by whoever carries this out.
    assert not (plan.finished and held) or plan.phase is Phase.ABANDON
    assert plan.phase is Phase.RUN or plan.claim == 0
    assert plan.claim == 0 or plan.wait == 0


@given(PACES, st.lists(EVENTS, max_size=80), st.integers(0, 80))
def test_whatever_happens_the_slots_and_the_buffer_are_never_exceeded(
    pace: Pace, events: list[tuple[str, int, bool]], stop_at: int
) -> None:
    now = 0.0
    agenda = Agenda(pace, now)
    for place, (kind, number, quickly) in enumerate(events):
        now += 0.0001 if quickly else 0.07
        if place == stop_at:
            agenda.stop(now)
        plan = agenda.plan(now)
        check(agenda, plan, agenda.held)
        if plan.claim and kind == "claim":
            before = agenda.held
            got = min(number, plan.claim)
            agenda.claiming()
            agenda.claimed(plan.claim, got, now)
            assert agenda.held == before + got <= pace.concurrency + MAX_BUFFER + 1
        elif kind == "finish":
            agenda.finished(min(number, agenda.held), now)
        elif kind == "notify":
            agenda.notified()
        elif kind == "due":
            agenda.due_in(number / 10, now)
        elif kind == "peers":
            agenda.peers_expire_in(number / 10, now)
        else:
            now += number / 1000
    agenda.stop(now)
    agenda.finished(agenda.held, now)
    assert agenda.plan(now).finished


@given(PACES, st.lists(st.floats(0, 3), max_size=30))
def test_if_nothing_happens_the_worker_waits(pace: Pace, pauses: list[float]) -> None:
    now = 0.0
    agenda = Agenda(pace, now)
    plan = agenda.plan(now)
    for pause in [0.0, *pauses, 0.0]:
        now += pause
        for _ in range(10):
            plan = agenda.plan(now)
            if plan.claim:
                agenda.claiming()
                agenda.claimed(plan.claim, 0, now)
            elif not plan.duties:
                break
        assert plan.wait > 0 or plan.finished


@given(st.integers(1, 50), st.floats(0, 100))
def test_stopping_always_comes_to_an_end(held: int, at: float) -> None:
    agenda = holding(min(held, 10))
    agenda.stop(at)
    phases = [agenda.plan(at + n / 2).phase for n in range(200)]
    assert phases == sorted(phases, key=CLOSING.index)
    assert phases[-1] is Phase.ABANDON
