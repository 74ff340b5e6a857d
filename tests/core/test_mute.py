"""A child whose threads run, and that sends no heartbeats though Postgres is there, is given up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.child_liveness import DOUBT, LEAST_DOUBT, SILENCED, ChildLiveness, Signs

BEAT = 10.0


class Two:
    """A parent and two children whose pulses go on; the parent looks as often as the vigil wants."""

    def __init__(self, heartbeat: float = BEAT) -> None:
        self.vigil = ChildLiveness(2, heartbeat, 5.0)
        self.now = 1000.0
        self.beaten: dict[int, float] = {0: self.now, 1: self.now}
        for slot in self.beaten:
            self.vigil.started(slot, self.now)
        self.killed: list[tuple[int, float]] = []
        self.probes = 0

    def go(self, seconds: float, beating: set[int], *, there: bool, stopped: frozenset[int] = frozenset()) -> None:
        """Let time pass; which children beat, and whether a probe would find Postgres."""
        until = self.now + seconds
        while self.now < until:
            self.beaten.update(dict.fromkeys(beating & set(self.beaten), self.now))
            signs = {s: Signs(self.now, at, math.inf, s in stopped) for s, at in self.beaten.items()}
            look = self.vigil.look(signs, self.now)
            assert not look.renew
            if look.probe:
                self.probes += 1
                self.vigil.renewing((), self.now)
                self.vigil.renewed(self.now, arrived=there)
            for slot in look.mute:
                self.killed.append((slot, self.now))
                del self.beaten[slot]
                self.vigil.ended(slot, for_good=False)
            self.now += self.vigil.wait(self.now)


@pytest.mark.parametrize("heartbeat", [1.0, 10.0])
@pytest.mark.parametrize("beating", [{1}, set()])
def test_a_mute_child_is_given_up_in_time(heartbeat: float, beating: set[int]) -> None:
    two = Two(heartbeat)
    begun = two.now
    two.go(100 * heartbeat, beating, there=True)
    assert {slot for slot, _ in two.killed} == {0, 1} - beating
    allowed = (SILENCED + 1) * heartbeat + max(DOUBT * heartbeat, LEAST_DOUBT)
    assert all(SILENCED * heartbeat < at - begun < allowed for _, at in two.killed)
    assert (two.probes > 0) is (not beating), "a sister that beats is proof enough"


def test_while_postgres_is_away_nobody_is_given_up() -> None:
    two = Two()
    two.go(500, set(), there=False)
    two.go(100, {0, 1}, there=True)
    assert two.killed == []


def test_who_comes_back_soon_after_postgres_is_left_alone() -> None:
    two = Two()
    two.go(500, set(), there=False)
    two.go(DOUBT * BEAT / 2, {1}, there=True)
    two.go(100, {0, 1}, there=True)
    assert two.killed == []


def test_a_suspended_child_is_not_given_up() -> None:
    two = Two()
    two.go(500, {1}, there=True, stopped=frozenset([0]))
    assert two.killed == []


@given(
    st.lists(st.tuples(st.floats(0.1, 60), st.sets(st.sampled_from([0, 1])), st.booleans()), min_size=1, max_size=12)
)
def test_only_who_was_silent_for_long_enough_is_given_up(phases: list[tuple[float, set[int], bool]]) -> None:
    two = Two()
    last = {0: two.now, 1: two.now}
    for seconds, beating, there in phases:
        before = len(two.killed)
        two.go(seconds, beating, there=there)
        for slot, at in two.killed[before:]:
            assert slot not in beating
            assert at - last[slot] >= SILENCED * BEAT + DOUBT * BEAT - 2 * two.vigil.between
        last.update(dict.fromkeys(beating, two.now))
