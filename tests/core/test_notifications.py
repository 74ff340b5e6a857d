"""The table of notifications, and that SQL keeps to it."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core import notifications
from pgwerk._core.notifications import Abort, Due, Queued, Waiting, make, parse

ROOT = Path(__file__).parents[2] / "pgwerk" / "_core"
TEXTS = {path: path.read_text() for path in (*ROOT.rglob("*.py"), *ROOT.rglob("*.sql"))}
ID = "0197c2f0-6f0c-7b7e-9d0a-3a1d1c3b2a10"
messages = st.one_of(
    st.builds(Queued, st.text(min_size=1)),
    st.builds(Due, st.integers(-(10**9), 10**9).map(lambda n: n / 1000)),
    st.builds(Abort, st.uuids().map(str)),
    st.builds(Waiting, st.lists(st.uuids().map(str), min_size=1).map(tuple)),
)


@given(messages)
def test_what_is_made_is_read_as_it_was(message: notifications.Wake) -> None:
    assert parse(make(message)) == message


@given(st.text())
def test_whatever_somebody_else_sends_is_read_or_is_nothing(payload: str) -> None:
    found = parse(payload)
    assert found is None or payload[0] in notifications.KINDS


@pytest.mark.parametrize("payload", ["", "p", "dsoon", "dnan", "dinf", "w", "wnonsense,", "x1"])
def test_what_says_nothing(payload: str) -> None:
    assert parse(payload) is None


def test_ids_of_others_are_made_normal_and_the_rest_is_dropped() -> None:
    assert parse(f"w{ID.upper()},nonsense") == Waiting((ID,))


def test_sql_sends_what_the_table_names() -> None:
    found = {
        letter
        for text in TEXTS.values()
        for letter in re.findall(
            r"(?:pg_notify\(\{+wake\}+, |select |\{+wake\}+, |then |else |case \S+ )'(\w)' \|\|", text
        )
    }
    assert found == {notifications.QUEUED, notifications.DUE, notifications.ABORT, notifications.WAITING}
    prefixes = {letter for text in TEXTS.values() for letter in re.findall(r"'(\w)' \|\|", text)}
    assert prefixes == found, "a prefix that this test does not see, or one that is not in the table"
    probes = {letter for text in TEXTS.values() for letter in re.findall(r"pg_notify\(\{\w+\}, '(\w)'\)", text)}
    assert probes == {notifications.PROBE}


def test_the_table_names_every_kind() -> None:
    table = notifications.__doc__ or ""
    assert all(f"``{kind}" in table for kind in notifications.KINDS)
