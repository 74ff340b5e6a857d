"""Who is beaten for, and who is killed: only a child that lives, is not suspended, and gets nothing to run."""

import math

from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.agenda import LIVENESS
from pgwerk._core.child_liveness import ChildLiveness, Look, Signs

BEAT = 10.0
GRACE = 5.0


class Watch:
    """A parent and one child, looked at as often as the vigil wants."""

    def __init__(self, heartbeat: float = BEAT) -> None:
        self.vigil = ChildLiveness(1, heartbeat, GRACE)
        self.now = 100.0
        self.vigil.started(0, self.now)
        self.pulse = self.beaten = self.now
        self.enforce_at = math.inf
        self.stopped = False
        self.renewals: list[float] = []
        self.kills: list[float] = []
        self.arrives = True
        self.looks: list[Look] = []

    def go(self, seconds: float, *, alive: bool, beats: bool | None = None) -> None:
        """Let time pass; *alive*: its threads run; *beats*: its heartbeats arrive."""
        until = self.now + seconds
        while self.now < until:
            if alive:
                self.pulse = self.now
                if beats is not False:
                    self.beaten = self.now
            self.look()
            self.now += self.vigil.wait(self.now)

    def look(self) -> Look:
        look = self.vigil.look({0: Signs(self.pulse, self.beaten, self.enforce_at, self.stopped)}, self.now)
        self.looks.append(look)
        if look.renew:
            self.renewals.append(self.now)
            self.vigil.renewing(look.renew, self.now)
            self.vigil.renewed(self.now, arrived=self.arrives)
        self.kills += [self.now for _ in look.kill]
        return look


def test_a_child_that_beats_is_left_alone() -> None:
    watch = Watch()
    watch.go(200, alive=True)
    assert (watch.renewals, watch.kills) == ([], [])
    assert watch.vigil.well(watch.now)


def test_a_starved_child_is_beaten_for_in_time_and_for_as_long_as_it_takes() -> None:
    watch = Watch()
    watch.go(300, alive=False)
    gaps = [b - a for a, b in zip([100.0, *watch.renewals], [*watch.renewals, 400.0], strict=True)]
    assert max(gaps) < 1.6 * BEAT < LIVENESS * BEAT
    assert watch.kills == []
    assert watch.vigil.well(watch.now)
    assert sum(bool(look.starving) for look in watch.looks) == 1, "it is said once"
    watch.go(10, alive=True)
    assert sum(bool(look.speaking) for look in watch.looks) == 1


def test_a_child_whose_threads_run_is_not_beaten_for_although_its_heartbeats_do_not_arrive() -> None:
    watch = Watch()
    watch.go(200, alive=True, beats=False)
    assert watch.renewals == []
    assert not watch.vigil.well(watch.now)


def test_a_suspended_child_is_neither_beaten_for_nor_killed_also_not_when_it_goes_on() -> None:
    watch = Watch()
    watch.enforce_at = watch.now
    watch.stopped = True
    watch.go(200, alive=False)
    assert (watch.renewals, watch.kills) == ([], [])
    watch.stopped = False
    watch.look()
    assert (watch.renewals, watch.kills) == ([], [])


def test_a_child_that_is_not_registered_is_not_beaten_for() -> None:
    vigil = ChildLiveness(1, BEAT, GRACE)
    vigil.started(0, 0.0)
    for second in range(100):
        assert vigil.look({0: Signs(0.0)}, float(second)).renew == ()
    assert not vigil.complete


def test_a_parent_that_did_not_run_itself_gives_its_children_time() -> None:
    watch = Watch()
    watch.go(20, alive=True)
    watch.enforce_at = watch.now
    watch.now += 1000
    watch.look()
    assert (watch.renewals, watch.kills) == ([], [])


def test_renewals_that_fail_are_tried_again_one_at_a_time() -> None:
    watch = Watch()
    watch.arrives = False
    watch.go(30, alive=False)
    gaps = [b - a for a, b in zip(watch.renewals, watch.renewals[1:], strict=False)]
    assert gaps
    assert min(gaps) >= 0.25 * BEAT
    assert not watch.vigil.well(watch.now)
    vigil = ChildLiveness(2, BEAT, GRACE)
    vigil.started(0, 0.0)
    silent = {0: Signs(0.0, 0.0)}
    for second in range(14):
        if vigil.look(silent, float(second)).renew:
            vigil.renewing((0,), float(second))
    vigil.started(1, 14.0)
    for second in range(14, 60):
        assert vigil.look({**silent, 1: Signs(14.0, 14.0)}, float(second)).renew == ()


def test_a_child_that_cannot_stop_a_handler_is_killed_once_after_two_graces() -> None:
    watch = Watch()
    watch.enforce_at = watch.now + 7
    watch.go(60, alive=False)
    (killed,) = watch.kills
    assert 7 + 2 * GRACE < killed - 100 < 7 + 2 * GRACE + 3
    assert [at for at in watch.renewals if at > killed] == []


def test_a_child_whose_threads_run_is_not_killed_although_it_is_late() -> None:
    watch = Watch()
    watch.enforce_at = watch.now
    watch.go(200, alive=True)
    assert watch.kills == []


def test_a_slot_that_is_filled_again_in_time_is_well() -> None:
    watch = Watch()
    watch.go(20, alive=True)
    watch.vigil.ended(0, for_good=False)
    assert watch.vigil.look({}, watch.now) == Look()
    assert watch.vigil.well(watch.now + 0.9 * BEAT)
    assert not watch.vigil.well(watch.now + 2 * BEAT)
    watch.vigil.ended(0, for_good=True)
    assert watch.vigil.well(watch.now + 100)


MOMENTS = st.lists(
    st.tuples(
        st.sampled_from(["live", "starve", "mute", "suspend", "replace", "sleep", "timeout"]), st.floats(0.1, 40.0)
    ),
    max_size=30,
)


@given(MOMENTS, st.sampled_from([0.3, 1.0, 10.0, 60.0]), st.booleans())
def test_whatever_happens_only_the_starved_are_beaten_for_or_killed(
    moments: list[tuple[str, float]], heartbeat: float, arrives: bool
) -> None:
    watch = Watch(heartbeat)
    watch.arrives = arrives
    for what, heartbeats in moments:
        renewals, kills = len(watch.renewals), len(watch.kills)
        seconds = heartbeats * heartbeat
        watch.stopped = what == "suspend"
        if what == "replace":
            watch.vigil.started(0, watch.now)
            watch.pulse = watch.beaten = watch.now
            watch.enforce_at = math.inf
        elif what == "sleep":
            watch.now += seconds
        elif what == "timeout":
            watch.enforce_at = watch.now + heartbeats
        else:
            watch.go(seconds, alive=what in ("live", "mute"), beats=what == "live")
        if what != "starve":
            assert (len(watch.renewals), len(watch.kills)) == (renewals, kills)
        elif arrives and not watch.kills:
            assert watch.now - max(watch.beaten, *watch.renewals[-1:], 0.0) < 1.6 * heartbeat or heartbeats < 2
