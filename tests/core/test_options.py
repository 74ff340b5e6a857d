"""Option values: validated where they are written."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core import options as opt
from pgwerk._core.job import Job
from pgwerk._core.options import Callback, Dependency, Group, Repeat, Retry


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Retry(0), "Retry"),
        (lambda: Retry(-1), "Retry"),
        (lambda: Retry(1.5), "Retry"),  # type: ignore[arg-type]
        (lambda: Retry(True), "Retry"),
        (lambda: Retry("3"), "Retry"),  # type: ignore[arg-type]
        (lambda: Retry(10**9), "Retry"),
        (lambda: Retry(3, -1), "intervals"),
        (lambda: Retry(3, []), "intervals"),
        (lambda: Retry(3, [1, math.nan]), "intervals"),
        (lambda: Retry(3, [1, math.inf]), "intervals"),
        (lambda: Retry(3, "10"), "intervals"),  # type: ignore[arg-type]
        (lambda: Retry(3, lost=-1), "lost"),
        (lambda: Retry(3, lost=True), "lost"),
        (lambda: Retry(3, lost=1.5), "lost"),  # type: ignore[arg-type]
        (lambda: Retry(3, lost=10**9), "lost"),
        (lambda: Retry(3, no_retry=(5,)), "no_retry"),  # type: ignore[arg-type]
        (lambda: Retry(3, no_retry=("ValueError",)), "no_retry"),  # type: ignore[arg-type]
        (lambda: Repeat(0), "Repeat"),
        (lambda: Repeat(2, -1), "interval"),
        (lambda: Repeat(2, intervals=[]), "intervals"),
        (lambda: Repeat(10**6, intervals=[1]), "intervals"),
        (lambda: Callback("a.b", timeout=0), "timeout"),
        (lambda: Callback("a.b", timeout=-1), "timeout"),
        (lambda: Group(""), "Group"),
        (lambda: Group("g", 0), "limit"),
        (lambda: Group("g", 10**6), "limit"),
        (lambda: Group(5), "Group"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_a_value_error_that_names_it(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


def test_good_values_are_kept_in_one_form() -> None:
    assert Retry(3).intervals == (0.0,)
    assert Retry(3, 5).intervals == (5.0,)
    assert Retry(3, [1, timedelta(minutes=1)]).intervals == (1.0, 60.0)  # type: ignore[list-item]
    assert Retry(3, no_retry=[ValueError]).no_retry == (ValueError,)  # type: ignore[arg-type]
    assert Retry(3, no_retry=ValueError).no_retry == (ValueError,)  # type: ignore[arg-type]
    assert Repeat(2, timedelta(hours=1)).interval == 3600.0
    assert Callback("a.b", timeout=timedelta(seconds=2)).timeout == 2.0


def test_a_dependency_is_a_job_or_its_id() -> None:
    assert Dependency(Job(id="x")).id == Dependency("x").id == "x"


@given(st.floats() | st.integers() | st.timedeltas())
def test_durations_are_finite_and_in_range_or_refused(value: Any) -> None:
    try:
        found = opt.seconds("x", value)
    except ValueError:
        return
    assert 0 <= found <= opt.MAX_SECONDS


@pytest.mark.parametrize("value", [None, "5", True, [], b"1"])
def test_durations_are_numbers(value: Any) -> None:
    with pytest.raises(ValueError, match="seconds"):
        opt.seconds("x", value)


def test_naive_times_are_utc() -> None:
    assert opt.aware(datetime(2020, 1, 1)) == datetime(2020, 1, 1, tzinfo=UTC)  # noqa: DTZ001  # the point
    assert opt.aware(None) is None
