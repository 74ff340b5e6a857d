"""Arrays as parameters: what Postgres reads is what was given."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgwerk._core.operation import Statement, scalar
from pgwerk._core.statements.arrays import Packed, array, packed_floats, packed_ids, packed_integers
from tests.database.builders import Desk

pytestmark = pytest.mark.postgres  # how parameters travel

# Each example only reads: the fixture need not be made anew.
several = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
_IDS = st.lists(st.uuids().map(str))
_INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1))
_FLOATS = st.lists(st.floats())


def read(desk: Desk, kind: str, param: str | Packed) -> Any:
    return desk.run(Statement(f"select %(values)s::{kind}[]::text[]", {"values": param}, scalar))


@several
@given(values=_IDS)
def test_packed_ids_arrive_as_they_are(desk: Desk, values: list[str]) -> None:
    assert read(desk, "uuid", packed_ids(values)) == read(desk, "uuid", array(values)) == values


@several
@given(values=_INTEGERS)
def test_packed_integers_arrive_as_they_are(desk: Desk, values: list[int]) -> None:
    assert read(desk, "bigint", packed_integers(values)) == [str(value) for value in values]


@several
@given(values=_FLOATS)
def test_packed_floats_arrive_as_they_are(desk: Desk, values: list[float]) -> None:
    found = read(desk, "double precision", packed_floats(values))
    assert [repr(float(text)) for text in found] == [repr(value) for value in values]


def test_a_packed_array_of_another_type_is_refused(desk: Desk) -> None:
    with pytest.raises(Exception, match="type"):
        read(desk, "uuid", packed_integers([1]))
