"""A coordinator that hangs is found out; one that rests, asks or gets on is not, whenever it is looked at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.stall import LEAST, Motion, Stall

HEARTBEAT, TICK, ASKING = 10.0, 5.0, 75.0
PATIENCE = max(3 * HEARTBEAT, LEAST)


def looks(motion: Motion, seconds: float, every: float = TICK) -> float | None:
    """After how long a coordinator that does not move counts as stuck."""
    stall, now = Stall(HEARTBEAT, TICK, ASKING), 1000.0
    while now < 1000.0 + seconds:
        if stall.look(motion, now):
            return now - 1000.0
        now += every
    return None


def test_one_that_hangs_outside_of_postgres_is_found_out_soon() -> None:
    found = looks(Motion(7, resting=False, asking=False), 200)
    assert found is not None
    assert PATIENCE < found <= PATIENCE + 2 * TICK


def test_one_that_waits_for_postgres_has_as_long_as_a_statement_may_take() -> None:
    found = looks(Motion(7, resting=False, asking=True), 200)
    assert found is not None
    assert ASKING < found <= ASKING + 2 * TICK


def test_one_that_rests_may_do_so_for_ever() -> None:
    assert looks(Motion(7, resting=True, asking=False), 10_000) is None


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """Both threads were kept from running, by a handler or by a suspension."""
    stall = Stall(HEARTBEAT, TICK, ASKING)
    hanging = Motion(7, resting=False, asking=False)
    assert not stall.look(hanging, 0.0)
    assert not stall.look(hanging, 1e6)
    assert stall.still == pytest.approx(2 * TICK)
    assert not stall.look(hanging._replace(steps=8), 1e6 + 1)
    assert stall.still == 0.0


@given(
    st.lists(
        st.tuples(st.floats(0.01, 2 * TICK), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=100
    )
)
def test_nobody_is_stuck_before_it_was_seen_not_to_move_for_so_long(
    life: list[tuple[float, bool, bool, bool]],
) -> None:
    stall, now, steps, moved = Stall(HEARTBEAT, TICK, ASKING), 0.0, 0, 0.0
    last = None
    for passed, moves, resting, asking in life:
        now += passed
        steps += moves
        motion = Motion(steps, resting, asking)
        if resting or motion != last:
            moved = now
        last = motion
        stuck = stall.look(motion, now)
        assert (
            stuck == (now - moved > (ASKING if asking else PATIENCE))
            or abs(now - moved - (ASKING if asking else PATIENCE)) < 1e-6
        )
