"""Values come back equal, or are refused; nothing is lost silently, and everything stored is storable."""

import dataclasses
import enum
import json
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk._core.payload import (
    JSONSerializer,
    PickleSerializer,
    Serializer,
    TypedJSONSerializer,
    Undecodable,
    decode,
    decode_or_stand_in,
    encode,
    storable_text,
)
from pgwerk.errors import SerializationError

JSON, TYPED, PICKLE = JSONSerializer(), TypedJSONSerializer(), PickleSerializer()


def through(serializer: Serializer, value: Any) -> Any:
    """A value as it comes back from a jsonb column: re-spaced, keys in another order, numbers as decimals."""
    text = encode(serializer, value, "x")
    tree = json.loads(text, parse_float=Decimal, parse_int=Decimal)
    return decode(serializer, _jsonb(tree))


def _jsonb(tree: Any) -> str:
    match tree:
        case dict():
            keys = sorted(tree, key=lambda key: (len(key.encode()), key.encode()))
            return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {_jsonb(tree[key])}" for key in keys) + "}"
        case list():
            return "[" + ", ".join(_jsonb(item) for item in tree) + "]"
        case Decimal():
            return format(tree, "f")
        case _:
            return json.dumps(tree, ensure_ascii=False)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
TREES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5), max_leaves=20
)


@given(TREES)
def test_json_values_come_back_equal(value: Any) -> None:
    if isinstance(value, dict) and value.keys() == {"$bytes"}:
        with pytest.raises(SerializationError):
            encode(JSON, value, "x")
        return
    assert through(JSON, value) == value


ZONES = st.just(UTC) | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
RICH_ATOMS = (
    ATOMS | st.binary() | st.uuids() | st.dates() | st.times() | st.datetimes() | st.datetimes(timezones=ZONES)
    | st.timedeltas() | st.decimals(allow_nan=False) | st.just(math.inf) | st.just(-math.inf)
)  # fmt: skip
HASHABLE = RICH_ATOMS | st.tuples(RICH_ATOMS, RICH_ATOMS)
RICH = st.recursive(
    RICH_ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(HASHABLE, inner, max_size=4) | st.lists(inner,
        max_size=3).map(tuple)
        | st.sets(HASHABLE, max_size=3) | st.frozensets(HASHABLE, max_size=3)
    ),
    max_leaves=15,
)  # fmt: skip


@given(RICH)
def test_typed_json_values_come_back_equal_and_of_the_same_type(value: Any) -> None:
    back = through(TYPED, value)
    assert back == value
    assert type(back) is type(value)


@given(
    st.dictionaries(
        st.sampled_from(["$tuple", "$set", "$dict", "$bytes", "$float", "$uuid", "$x", "a"]),
        st.integers() | st.lists(st.integers()),
    )
)
def test_typed_json_does_not_mistake_a_users_dollar_for_its_own(value: Any) -> None:
    assert through(TYPED, value) == value


@pytest.mark.parametrize("serializer", [JSON, TYPED, PICKLE])
@pytest.mark.parametrize(
    "value",
    ["123", "null", "true", "", "\\u0000", "\\\\u0000", '"', "\U0001f600", 0, -0.0, 1e16, 1e22, 1e23, 1.5e300, 5e-324,
    10**100,
     "1e+23", ["1e+23", 1e23], {"1e+5": 1e25}, {}, [], [[]], {"$bytes": "x", "longer key": 1}, {"a": {"$bytes": "x"}},
     None],
    ids=repr,
)  # fmt: skip
def test_values_that_often_go_wrong_come_back_equal(serializer: Serializer, value: Any) -> None:
    back = through(serializer, value)
    assert back == value
    assert type(back) is type(value)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize("serializer", [JSON, TYPED])
@pytest.mark.parametrize(
    "value", ["\0", ["a\0b"], {"\0": 1}, "\ud800", {"\udfff": 1}, object(), CYCLE, nested(100_000), 10**6000, len],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_cannot_be_stored_is_refused(serializer: Serializer, value: Any) -> None:
    with pytest.raises(SerializationError):
        encode(serializer, value, "x")


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"x", {"a": {b"x"}}, 1j])
def test_plain_json_refuses_what_would_be_lost(value: Any) -> None:
    with pytest.raises(SerializationError):
        encode(JSON, value, "x")


def test_typed_json_keeps_nan() -> None:
    back = through(TYPED, [math.nan])
    assert math.isnan(back[0])


class Color(enum.Enum):
    RED = "red"


class Mapped(enum.Enum):
    A = {1: 1, "1": 1}  # noqa: RUF012  # a value, not an attribute


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    ONE = "1"


class Tagged(str):
    """Text that is equal to itself only."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclasses.dataclass
class Point:
    x: int
    y: Any


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2020, 1, 2, tzinfo=UTC), "2020-01-02T00:00:00+00:00"), (date(2020, 1, 2), "2020-01-02"), (time(1, 2),
        "01:02:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"), (Decimal("1.50"), "1.50"), (timedelta(minutes=1), 60.0),
        (Color.RED, "red"), (Point(1, Color.RED), {"x": 1, "y": "red"}), ((1, 2), [1, 2]), ({1: 2}, {"1": 2}),
    ],
)  # fmt: skip
def test_plain_json_coerces_what_web_applications_have(value: Any, expected: Any) -> None:
    assert through(JSON, value) == expected


KEYS = st.one_of(
    TEXT, st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-1, 1),
    st.sampled_from(["1", "1.0", "true", "null", "-1", "0"]),
)  # fmt: skip
KEYED = st.recursive(
    st.dictionaries(KEYS, st.none(), max_size=6),
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.builds(Point, st.just(1), inner)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


def texts_of(keys: Any) -> set[str]:
    return {key if isinstance(key, str) else json.dumps(key) for key in keys}


@given(KEYED)
def test_keys_become_text_or_are_refused_but_none_is_lost(value: Any) -> None:
    def lossy(one: Any) -> bool:
        if isinstance(one, Point):
            return lossy(one.y)
        if isinstance(one, list | tuple):
            return any(map(lossy, one))
        return one is not None and (len(texts_of(one)) < len(one) or any(map(lossy, one.values())))

    if lossy(value):
        with pytest.raises(SerializationError, match=r"^x cannot be encoded by JSONSerializer: two keys of a dict, "):
            encode(JSON, value, "x")
    else:
        _ = encode(JSON, value, "x")
        if isinstance(value, dict) and not any(value.values()):
            assert through(JSON, value).keys() == texts_of(value)
    if isinstance(value, dict) and not any(value.values()):
        assert through(TYPED, value) == value
        assert {type(key) for key in through(TYPED, value)} == {type(key) for key in value}


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        ({1: "a", "1": "b"}, "1 and '1', are both '1'"), ({"true": 1, True: 2}, "'true' and True, are both 'true'"),
        ({None: 1, "null": 2}, "None and 'null', are both 'null'"), ({1.0: 1, "1.0": 2}, "are both '1.0'"),
        ({Number.ONE: 1, "1": 2}, "are both '1'"), ({Word.ONE: 1, 1: 2}, "are both '1'"),
        ({Tagged("a"): 1, Tagged("a"): 2}, "'a' and 'a', are both 'a'"),
        ({"args": [[Point(1, ({1: 2, "1": 3},))]]}, "1 and '1', are both '1'"),
        (Mapped.A, "1 and '1'"),
    ],
    ids=str,
)  # fmt: skip
def test_of_two_keys_that_are_the_same_text_none_is_lost_in_silence(value: Any, keys: str) -> None:
    with pytest.raises(SerializationError, match=keys):
        encode(JSON, value, "the arguments of shop.bill")


@pytest.mark.parametrize(
    "key", [(1, 2), Color.RED, b"x", frozenset(), math.nan, math.inf, UUID(int=1), date(2020, 1, 1)]
)
def test_keys_that_json_has_not_are_refused(key: Any) -> None:
    with pytest.raises(SerializationError):
        encode(JSON, {key: 1}, "x")


def test_a_zero_below_zero_keeps_its_sign() -> None:
    assert encode(TYPED, [0.0, -0.0], "x") == '[0.0,{"$float":"-0.0"}]'
    assert [math.copysign(1, zero) for zero in through(TYPED, [0.0, -0.0, {-0.0: 1}.popitem()[0]])] == [1, -1, -1]


class Precise(datetime):
    """A datetime that knows more than one, as those of pandas do."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Precise)

    __hash__ = datetime.__hash__


class Renamed(datetime):
    """A datetime that is no more than one, as those of freezegun are."""


def test_a_subclass_that_would_lose_something_is_refused() -> None:
    with pytest.raises(SerializationError, match="Precise has no JSON form that comes back equal"):
        encode(TYPED, Precise(2020, 1, 1), "x")
    assert through(TYPED, Renamed(2020, 1, 1)) == datetime(2020, 1, 1)  # noqa: DTZ001  # naive as well


@pytest.mark.parametrize("value", [Color.RED, Point(1, 2), bytearray(b"x"), 1j, range(3)])
def test_typed_json_refuses_what_would_not_come_back_equal(value: Any) -> None:
    with pytest.raises(SerializationError):
        encode(TYPED, value, "x")


def test_a_dict_that_looks_like_bytes_of_another_serializer_is_refused() -> None:
    with pytest.raises(SerializationError, match="bytes"):
        encode(JSON, {"$bytes": "aGk="}, "x")
    assert through(JSON, {"args": [{"$bytes": "aGk="}]}) == {"args": [{"$bytes": "aGk="}]}


@given(RICH)
def test_pickles_come_back_equal(value: Any) -> None:
    assert through(PICKLE, value) == value


def test_what_another_serializer_wrote_is_an_error_not_a_wrong_value() -> None:
    text = encode(PICKLE, {"args": [1]}, "x")
    with pytest.raises(SerializationError):
        decode(JSON, text)
    stand_in = decode_or_stand_in(JSON, text)
    assert isinstance(stand_in, Undecodable)
    assert stand_in.text == text
    assert decode(PICKLE, '{"args": [1]}') == {"args": [1]}


def test_too_large_is_refused_by_bytes_not_by_characters() -> None:
    assert encode(JSON, "ü" * 4, "x", limit=10)
    with pytest.raises(SerializationError, match="12 bytes"):
        encode(JSON, "ü" * 5, "x", limit=11)


@given(st.text(st.characters()), st.integers(10, 200))
def test_any_traceback_can_be_stored(text: str, limit: int) -> None:
    stored = storable_text(text, limit)
    assert "\0" not in stored
    stored.encode()
    assert len(text) > limit or "\0" in text or any(0xD800 <= ord(c) < 0xE000 for c in text) or stored == text


def test_an_endless_traceback_keeps_its_two_ends() -> None:
    text = storable_text("begin " + "x" * 1_000_000 + " end")
    assert len(text) < 101_000
    assert text.startswith("begin")
    assert text.endswith(" end")
