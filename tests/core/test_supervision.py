"""The prefork parent: never more than its children, back-off, one escalation, one replacement at a time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.supervision import KILL_GRACE, SHORT_LIFE, Command, Plan, Supervision


class Parent:
    """A parent with pretended processes."""

    def __init__(self, processes: int = 3, shutdown: float = 30.0, *, burst: bool = False) -> None:
        self.supervision = Supervision(processes, shutdown, burst=burst)
        self.now = 0.0
        self.next_pid = 100
        self.said: list[tuple[int, Command]] = []

    def step(self, passed: float = 0.0) -> Plan:
        self.now += passed
        plan = self.supervision.plan(self.now)
        for slot in plan.spawn:
            self.next_pid += 1
            self.supervision.spawned(slot, self.next_pid, self.now)
        self.said += plan.commands
        return plan

    @property
    def pids(self) -> list[int]:
        return [child.pid for child in self.supervision.children]

    def exit(self, pid: int, *, clean: bool = False) -> float | None:
        return self.supervision.exited(pid, self.now, clean=clean)


def test_it_starts_all_children_and_then_waits_for_news() -> None:
    parent = Parent()
    assert parent.step().spawn == (0, 1, 2)
    plan = parent.step()
    assert (plan.spawn, plan.commands, plan.wait, plan.finished) == ((), (), math.inf, False)


def test_a_child_that_ends_is_replaced_at_once_in_its_slot() -> None:
    parent = Parent()
    parent.step()
    victim = parent.pids[1]
    parent.now = SHORT_LIFE
    assert parent.exit(victim) == 0.0
    assert parent.step().spawn == (1,)
    assert len(parent.pids) == 3


def test_a_crash_loop_is_started_less_and_less_often_and_stops_no_other() -> None:
    parent = Parent()
    parent.step()
    pauses = []
    for _ in range(12):
        child = next(child for child in parent.supervision.children if child.slot == 0)
        parent.now += 0.01
        pause = parent.exit(child.pid)
        assert pause is not None
        pauses.append(pause)
        if pause:
            assert parent.step(pause * 0.9).spawn == ()
            assert parent.supervision.plan(parent.now).wait == pytest.approx(pause * 0.1, abs=0.001)
        assert parent.step(pause * 0.1 + 0.0001).spawn == (0,)
    assert pauses == sorted(pauses)
    assert pauses[0] > 0
    assert pauses[-1] == 30.0
    child = next(child for child in parent.supervision.children if child.slot == 0)
    parent.now += 60
    assert parent.exit(child.pid) == 0.0


def test_a_child_that_cannot_be_started_is_tried_again_ever_more_rarely_and_costs_no_other() -> None:
    supervision = Supervision(2, 30.0)
    assert supervision.plan(0.0).spawn == (0, 1)
    supervision.spawned(0, 100, 0.0)
    now, pauses = 0.0, []
    for _ in range(12):
        pauses.append(supervision.not_spawned(1, now))
        plan = supervision.plan(now)
        assert (plan.spawn, plan.commands) == ((), ())
        assert plan.wait == pytest.approx(pauses[-1])
        now += pauses[-1]
        assert supervision.plan(now).spawn == (1,)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.1, 30.0)
    supervision.spawned(1, 101, now)
    assert [child.pid for child in supervision.children] == [100, 101]
    assert supervision.plan(now).spawn == ()


def test_stopping_asks_then_kills_after_the_grace() -> None:
    parent = Parent(2, shutdown=30)
    parent.step()
    one, two = parent.pids
    parent.supervision.stop(0.0)
    plan = parent.step()
    assert parent.said == [(one, Command.STOP), (two, Command.STOP)]
    assert plan.wait == 30 + KILL_GRACE
    assert parent.step(30 + KILL_GRACE - 0.1).commands == ()
    assert parent.step(0.2).commands == ((one, Command.KILL), (two, Command.KILL))
    assert parent.step(100).commands == ()
    parent.exit(one)
    assert not parent.step().finished
    parent.exit(two)
    plan = parent.step()
    assert (plan.finished, plan.spawn) == (True, ())


def test_a_second_stop_makes_them_give_back() -> None:
    parent = Parent(1)
    parent.step()
    parent.supervision.stop(0.0)
    parent.step()
    parent.supervision.stop(1.0)
    parent.step(1.0)
    parent.supervision.stop(1.0)
    parent.step()
    assert [command for _, command in parent.said] == [Command.STOP, Command.GIVE_BACK]


def test_two_stops_before_it_looks_tell_both() -> None:
    parent = Parent(1)
    parent.step()
    parent.supervision.stop(0.0)
    parent.supervision.stop(0.0)
    parent.step()
    assert [command for _, command in parent.said] == [Command.STOP, Command.GIVE_BACK]


def test_a_child_started_while_the_stop_is_asked_for_is_stopped_too() -> None:
    parent = Parent(1)
    plan = parent.supervision.plan(0.0)
    parent.supervision.stop(0.0)
    parent.supervision.spawned(plan.spawn[0], 7, 0.0)
    assert parent.step().commands == ((7, Command.STOP),)


def test_a_child_that_ends_while_stopping_is_not_replaced() -> None:
    parent = Parent()
    parent.step()
    parent.supervision.stop(0.0)
    parent.step()
    assert parent.exit(parent.pids[0]) is None
    assert parent.step(100).spawn == ()


def test_a_rolling_restart_replaces_one_at_a_time() -> None:
    parent = Parent(3)
    parent.step()
    old = parent.pids
    parent.supervision.restart()
    for place, pid in enumerate(old):
        plan = parent.step(1.0)
        assert plan.commands == ((pid, Command.STOP),)
        assert parent.step(1.0).commands == ()
        assert len(parent.pids) == 3
        parent.exit(pid, clean=True)
        assert len(parent.pids) == 2
        assert parent.step().spawn == (place,)
    assert parent.step(1.0).commands == ()
    assert not set(old) & set(parent.pids)


def test_a_child_that_ignores_a_restart_is_killed_and_the_restart_goes_on() -> None:
    parent = Parent(2, shutdown=5)
    parent.step()
    one, two = parent.pids
    parent.supervision.restart()
    parent.step()
    assert parent.step(5 + KILL_GRACE).commands == ((one, Command.KILL),)
    parent.exit(one)
    parent.step()
    assert (two, Command.STOP) in parent.step().commands or (two, Command.STOP) in parent.said


def test_a_child_that_dies_during_a_restart_counts_as_replaced() -> None:
    parent = Parent(2)
    parent.step(10)
    one, two = parent.pids
    parent.supervision.restart()
    parent.now += 10
    parent.exit(two)
    parent.step()
    parent.step(1)
    parent.exit(one, clean=True)
    parent.step()
    assert parent.step(1).commands == ()
    assert [pid for pid, _ in parent.said] == [one]


def test_stopping_ends_a_restart() -> None:
    parent = Parent(2)
    parent.step()
    parent.supervision.restart()
    parent.step()
    parent.supervision.stop(1.0)
    parent.supervision.restart()
    parent.step(1.0)
    assert sorted(parent.said) == sorted((pid, Command.STOP) for pid in parent.pids)


def test_a_child_is_recycled_once() -> None:
    parent = Parent(2)
    parent.step()
    pid = parent.pids[0]
    assert parent.supervision.recycle(pid, 0.0)
    assert not parent.supervision.recycle(pid, 0.0)
    assert not parent.supervision.recycle(9999, 0.0)
    assert parent.step().commands == ((pid, Command.STOP),)
    assert parent.exit(pid) == 0.0


def test_a_burst_is_over_when_every_child_has_ended_well() -> None:
    parent = Parent(2, burst=True)
    parent.step()
    one, two = parent.pids
    parent.exit(one, clean=True)
    plan = parent.step()
    assert (plan.spawn, plan.finished) == ((), False)
    parent.exit(two, clean=False)
    assert parent.step(1.0).spawn == (1,)
    parent.exit(parent.pids[0], clean=True)
    assert parent.step().finished


def test_an_unknown_child_is_ignored() -> None:
    assert Parent().exit(1) is None


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["step", "exit", "crash", "restart", "recycle", "stop"]), st.integers(0, 9), st.floats(0, 20)
    ),
    max_size=60,
)


@given(st.integers(1, 5), EVENTS, st.booleans())
def test_whatever_happens_there_are_never_too_many_and_stopping_ends(
    processes: int, events: list[tuple[str, int, float]], burst: bool
) -> None:
    parent = Parent(processes, 5, burst=burst)
    for kind, which, passed in events:
        plan = parent.step(passed)
        assert len(parent.pids) <= processes
        assert plan.wait >= 0
        assert not plan.finished or not parent.pids
        slots = [child.slot for child in parent.supervision.children]
        assert len(set(slots)) == len(slots)
        pids = parent.pids
        if kind in ("exit", "crash") and pids:
            parent.exit(pids[which % len(pids)], clean=kind == "exit")
        elif kind == "restart":
            parent.supervision.restart()
        elif kind == "recycle" and pids:
            parent.supervision.recycle(pids[which % len(pids)], parent.now)
        elif kind == "stop" and which == 0:
            parent.supervision.stop(parent.now)
    parent.supervision.stop(parent.now)
    parent.step(5 + KILL_GRACE + 1)
    parent.step(5 + KILL_GRACE + 1)
    killed = {pid for pid, command in parent.said if command is Command.KILL}
    assert set(parent.pids) <= killed
    for pid in parent.pids:
        parent.exit(pid)
    assert parent.step().finished
