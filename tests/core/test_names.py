"""Names of an installation: quoted, short enough, and never mistaken for something else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.names import TABLES, Names
from pgwerk._core.operation import Statement, nothing
from pgwerk._postgres.driver import Renderer
from pgwerk.errors import ConfigError


def test_tables_are_qualified_and_quoted() -> None:
    names = Names("my schema", 'p"x')
    assert names.table("jobs") == '"my schema"."p""x_jobs"'
    assert names.render("select * from {jobs} -- [jobs_key]", with_params=False) == (
        'select * from "my schema"."p""x_jobs" -- "p""x_jobs_key"'
    )


def test_public_and_empty_mean_unqualified() -> None:
    for schema in ("public", ""):
        names = Names(schema)
        assert names.table("jobs") == '"_pgwerk_jobs"'
        assert names.render("{schema_name}", with_params=False) == "null::text"


def test_percent_signs_are_doubled_only_where_there_are_parameters() -> None:
    names = Names("100%", "a%s")
    render = Renderer(names)
    with_params = render(Statement("select %(x)s from {jobs}", {"x": 1}, nothing))
    assert with_params == (b'select %(x)s from "100%%"."a%%s_jobs"', {"x": 1})
    assert render(Statement("select 1 from {jobs}", {}, nothing)) == (b'select 1 from "100%"."a%s_jobs"', None)


def test_a_name_that_looks_like_a_place_is_not_filled_in_again() -> None:
    names = Names("{jobs}", "[jobs_key]")
    assert names.render("{jobs}", with_params=False) == '"{jobs}"."[jobs_key]_jobs"'


def test_arrays_json_and_casts_are_no_places() -> None:
    text = "select '{a,b}'::text[], array[1], '{}', x[1], '{payload,result}'"
    assert Names().render(text, with_params=False) == text


@pytest.mark.parametrize(
    ("schema", "prefix"),
    [("a\0", "p"), ("a\\", "p"), ("s", "p\0"), ("s", ""), ("s" * 64, "p"), ("s", "p" * 40), ("ä" * 32, "p")],
)
def test_what_cannot_be_a_name_is_refused(schema: str, prefix: str) -> None:
    with pytest.raises(ConfigError):
        Names(schema, prefix)


NAMES = st.text(st.characters(exclude_characters="\0\\", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(NAMES, NAMES)
def test_channels_are_short_and_two(schema: str, prefix: str) -> None:
    names = Names(schema, prefix)
    assert names.wake_channel != names.done_channel
    for channel in (names.wake_channel, names.done_channel):
        assert 0 < len(channel.encode()) <= 63


def test_the_longest_names_still_have_channels() -> None:
    names = Names("漢" * 21, "ü" * 19)
    assert names.wake_channel != names.done_channel
    assert len(names.wake_channel.encode()) <= 63


@given(NAMES, NAMES)
def test_any_name_renders_every_table_once(schema: str, prefix: str) -> None:
    names = Names(schema, prefix)
    for table in TABLES:
        assert names.render(f"{{{table}}}", with_params=False) == names.table(table)
