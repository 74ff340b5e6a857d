"""Times as Postgres tells them: each that Python has comes back exactly, and none is an error."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.statements.times import EARLIEST, EPOCH, LATEST, moment


@given(st.datetimes(timezones=st.just(UTC)))
def test_every_time_comes_back(time: datetime) -> None:
    microseconds = (time - EPOCH) // timedelta(microseconds=1)
    sign, (whole, part) = "-" if microseconds < 0 else "", divmod(abs(microseconds), 1_000_000)
    assert moment(f"{sign}{whole}.{part:06}") == time


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (None, None),
        ("0", EPOCH),
        ("1764066461.5", datetime(2025, 11, 25, 10, 27, 41, 500000, tzinfo=UTC)),
        ("Infinity", LATEST),
        ("-Infinity", EARLIEST),
        ("-210866803200.000000", EARLIEST),
        ("9224318015999.999999", LATEST),
        ("253402300800.000000", LATEST),
    ],
)
def test_what_python_has_not_becomes_the_nearest(text: str | None, time: datetime | None) -> None:
    assert moment(text) == time
