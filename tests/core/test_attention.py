"""When a worker looks for jobs again: each transition of the table, and what holds after any of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.attention import REPOLLS, SOON, STREAM, Attention, State

POLL = 5.0


def asleep() -> Attention:
    """One whose claims have come back short for a while."""
    attention = Attention(POLL, 0.0)
    attention.sent()
    attention.claimed(0, 0.0, full=False)
    for at in (0.05, 0.25):
        attention.look(at)
        attention.sent()
        attention.claimed(0, at, full=False)
    assert attention._state is State.DOZING
    return attention


def in_state(state: State) -> Attention:
    attention = Attention(POLL, 0.0)
    if state is State.BUSY:
        return attention
    if state is State.DOZING:
        return asleep()
    for _ in range(STREAM if state is State.STREAM else 1):
        attention.sent()
        attention.claimed(2, 0.0, full=False)
    assert attention._state is state
    return attention


@pytest.mark.parametrize("state", State)
def test_a_full_claim_makes_it_busy(state: State) -> None:
    attention = in_state(state)
    attention.sent()
    attention.claimed(10, 1.0, full=True)
    assert (attention._state, attention.wanted, attention.dozing) == (State.BUSY, True, False)
    assert attention.next_look == 1.0 + POLL


@pytest.mark.parametrize("state", State)
def test_several_claims_that_bring_several_jobs_are_a_stream(state: State) -> None:
    attention = in_state(state)
    for _ in range(STREAM):
        attention.sent()
        attention.claimed(2, 1.0, full=False)
    assert (attention._state, attention.wanted, attention.dozing) == (State.STREAM, False, False)
    assert attention.next_look == 1.0 + SOON


@pytest.mark.parametrize(
    ("state", "told", "then", "looks"),
    [
        (State.BUSY, False, State.WATCHFUL, REPOLLS),
        (State.STREAM, False, State.WATCHFUL, REPOLLS),
        (State.DOZING, False, State.DOZING, ()),
        (State.DOZING, True, State.WATCHFUL, REPOLLS[:1]),
    ],
)
def test_a_short_claim_makes_it_watchful_or_leaves_it_dozing(
    state: State, told: bool, then: State, looks: tuple[float, ...]
) -> None:
    attention = in_state(state)
    if told:
        attention.heard()
    attention.sent()
    attention.claimed(0, 1.0, full=False)
    assert (attention._state, attention.wanted, attention.dozing) == (then, False, True)
    for look in looks:
        assert attention.next_look == 1.0 + look
        attention.look(1.0 + look)
        assert attention.wanted
    assert attention._state is State.DOZING
    assert attention.next_look == 1.0 + (looks[-1] if looks else 0.0) + POLL


@pytest.mark.parametrize("state", State)
def test_what_is_heard_while_a_claim_is_on_its_way_is_looked_for_again(state: State) -> None:
    attention = in_state(state)
    attention.sent()
    attention.heard()
    attention.claimed(0, 1.0, full=False)
    assert attention.wanted


@given(st.lists(st.tuples(st.sampled_from(["sent", "claimed", "heard", "look"]), st.integers(0, 3), st.booleans())))
def test_its_invariants_hold_after_anything(events: list[tuple[str, int, bool]]) -> None:
    attention, now = Attention(POLL, 0.0), 0.0
    for what, number, full in events:
        now += 0.04 * number
        match what:
            case "sent":
                attention.sent()
            case "claimed":
                attention.claimed(number, now, full=full)
            case "heard":
                attention.heard()
                assert attention.wanted
            case _:
                attention.look(now)
                assert attention.next_look > now
        assert attention.dozing == (attention._state in (State.WATCHFUL, State.DOZING))
        assert bool(attention._looks) <= (attention._state in (State.WATCHFUL, State.STREAM))
        assert (attention._state is not State.WATCHFUL) or attention._looks
        assert attention.next_look <= now + POLL
