"""The table of duties."""

from pgwerk._core.agenda import Duty, Pace
from pgwerk.workers.coordinating.duties import ACTIONS


def test_every_duty_has_an_action() -> None:
    assert set(ACTIONS) == set(Duty)
    assert len(set(ACTIONS.values())) == len(Duty)


def test_every_duty_comes_again() -> None:
    assert all(duty.rule.interval(Pace()) > 0 for duty in Duty)
