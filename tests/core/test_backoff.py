"""Delays are pure functions of the number of tries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core import backoff


def test_delays_double_up_to_the_cap() -> None:
    assert [backoff.exponential(n) for n in range(1, 11)] == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]


def test_a_schedule_ends_where_the_last_one_repeats() -> None:
    assert backoff.schedule(1) == []
    assert backoff.schedule(4) == [2, 4, 8]
    assert backoff.schedule(1000) == [2, 4, 8, 16, 32, 64, 128, 256, 300]


@given(st.integers(-5, 10**9))
def test_no_number_of_attempts_overflows(attempt: int) -> None:
    assert 0 < backoff.exponential(attempt) <= backoff.CAP


@pytest.mark.parametrize(
    ("intervals", "index", "delay"),
    [([], 0, 0), ([1, 2, 3], 0, 1), ([1, 2, 3], 2, 3), ([1, 2, 3], 99, 3), ([1, 2, 3], -1, 1), ([4], 7, 4)],
)
def test_the_last_interval_repeats(intervals: list[float], index: int, delay: float) -> None:
    assert backoff.interval(intervals, index) == delay


@given(st.floats(0, 1e6), st.floats(-1, 2), st.floats(0, 1))
def test_jitter_only_shortens_and_by_its_share(delay: float, draw: float, share: float) -> None:
    assert delay * (1 - share) - 1e-9 <= backoff.jittered(delay, draw, share=share) <= delay


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_reconnecting_waits_between_fifty_milliseconds_and_five_seconds(failures: int, draw: float) -> None:
    assert 0.05 <= backoff.reconnect(failures, draw) <= 5
