"""Arguments and results as JSON in Postgres: the serializers, and what every stored text must fulfil.

A serializer's `dumps` returns either JSON text, which is stored as it is (and can be queried), or bytes, which are
stored as ``{"$bytes": "<base64>"}``.
"""

import base64
import dataclasses
import enum
import json
import pickle
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pgwerk.errors import SerializationError


class Serializer(ABC):
    """How arguments and results are stored."""

    @abstractmethod
    def dumps(self, value: Any) -> str | bytes:
        """Encode *value* as JSON text, or as bytes."""

    @abstractmethod
    def loads(self, data: str | bytes) -> Any:
        """Decode what `dumps` returned; JSON text may come back with other spacing and key order."""


class JSONSerializer(Serializer):
    """JSON, with the coercions a web application expects on the way in.

    datetime, date and time become ISO 8601 text, UUID, Decimal and enums their plain value,
    timedelta seconds, dataclasses and tuples objects and lists, other keys text; they come back as that.
    What would be lost silently (NaN, sets, bytes, one of two keys that are the same text) is refused:
    use `TypedJSONSerializer`.
    """

    def dumps(self, value: Any) -> str:
        """Encode *value* as JSON text."""
        text = _plain(value)
        # Second: it has found out by now whether the value contains itself.
        _refuse_equal_keys(value)
        return text

    def loads(self, data: str | bytes) -> Any:
        """Decode JSON text."""
        if isinstance(data, str):
            # What Postgres prints has nothing around it: a third of the cost of loads().
            try:
                value, end = _READ(data)
            except ValueError:
                return json.loads(data)
            if end == len(data):
                return value
        return json.loads(data)


_READ = json.JSONDecoder().raw_decode


def _coerce(value: Any) -> Any:
    match value:
        case datetime() | date() | time():
            return value.isoformat()
        case UUID() | Decimal():
            return str(value)
        case timedelta():
            return value.total_seconds()
        case enum.Enum():
            return value.value
        case _:
            pass
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


_ATOMS = frozenset((str, int, float, bool, type(None)))


def _refuse_equal_keys(value: Any) -> None:
    """Raise ValueError when keys that differ in Python are the same in JSON; not recursive, for any depth."""
    # On the way of every enqueue: the usual types come first, and are not asked twice.
    todo = [value]
    while todo:
        one = todo.pop()
        kind = type(one)
        if kind is dict or (kind is not list and isinstance(one, dict)):
            checked = False
            for key, item in one.items():
                if type(item) not in _ATOMS:
                    todo.append(item)
                if type(key) is not str and not checked:
                    _refuse_equal_texts(one)
                    checked = True
        elif kind is list or isinstance(one, list | tuple):
            if not _ATOMS.issuperset(map(type, one)):
                todo.extend(one)
        elif isinstance(one, enum.Enum):
            todo.append(one.value)
        elif dataclasses.is_dataclass(one):
            todo.extend(getattr(one, field.name) for field in dataclasses.fields(one))


def _refuse_equal_texts(keys: dict[Any, Any]) -> None:
    seen: dict[str, Any] = {}
    for key in keys:
        # As json writes them; a subclass of str, like a StrEnum, is its plain value.
        text = str.__str__(key) if isinstance(key, str) else json.dumps(key)
        if text in seen:
            raise ValueError(f"two keys of a dict, {seen[text]!r} and {key!r}, are both {text!r} in JSON")
        seen[text] = key


# json.dumps would make one for each value.
_PLAIN = json.JSONEncoder(default=_coerce, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _encoder() -> Callable[[Any], str]:
    """What `_PLAIN.encode` does, without making a new encoder in C for each value, where there is one."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return _PLAIN.encode
    # Without markers, which are for one value at a time: what contains itself ends as a RecursionError.
    parts = make(None, _coerce, json.encoder.encode_basestring, None, ":", ",", False, False, False)
    return lambda value: "".join(parts(value, 0))


_plain = _encoder()

_TAGS: tuple[tuple[str, type, Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    # The first that matches: datetime is a date, too.
    ("$datetime", datetime, datetime.isoformat, datetime.fromisoformat),
    ("$date", date, date.isoformat, date.fromisoformat),
    ("$time", time, time.isoformat, time.fromisoformat),
    ("$timedelta", timedelta, lambda v: [v.days, v.seconds, v.microseconds], lambda v: timedelta(*v)),
    ("$uuid", UUID, str, UUID),
    ("$decimal", Decimal, str, Decimal),
    ("$bytes", bytes, lambda v: base64.b64encode(v).decode(), base64.b64decode),
)  # fmt: skip


class TypedJSONSerializer(Serializer):
    """JSON that comes back as it was: datetimes, UUIDs, Decimals, bytes, sets, tuples, NaN and non-text keys too.

    Such values are stored as an object with one tag, like ``{"$uuid": "…"}``.
    """

    def dumps(self, value: Any) -> str:
        """Encode *value* as JSON text with tags."""
        return json.dumps(_tagged(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))

    def loads(self, data: str | bytes) -> Any:
        """Decode JSON text with tags."""
        return json.loads(data, object_pairs_hook=_untagged)


def _tagged(value: Any) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        # jsonb has neither these nor a zero below zero.
        plain_float = value - value == 0 and (value != 0 or str(value) == "0.0")
        return value if plain_float else {"$float": repr(value)}
    if type(value) is list:
        return [_tagged(item) for item in value]
    if type(value) is dict:
        plain = all(type(key) is str for key in value)
        if plain and not any(key.startswith("$") for key in value):
            return {key: _tagged(item) for key, item in value.items()}
        return {"$dict": [[_tagged(key), _tagged(item)] for key, item in value.items()]}
    if type(value) in (tuple, set, frozenset):
        return {f"${type(value).__name__}": [_tagged(item) for item in value]}
    for tag, kind, dump, load in _TAGS:
        if isinstance(value, kind):
            # A subclass may be more than its base shows, like a timestamp of nanoseconds.
            if type(value) is kind or load(dump(value)) == value:
                return {tag: dump(value)}
            break
    raise TypeError(
        f"{type(value).__name__} has no JSON form that comes back equal; convert it, or use PickleSerializer"
    )


_REVIVE: dict[str, Callable[[Any], Any]] = {
    "$tuple": tuple,
    "$set": set,
    "$frozenset": frozenset,
    "$float": float,
    "$dict": lambda pairs: {key: item for key, item in pairs},  # noqa: C416  # pairs are lists
    **{tag: load for tag, _, _, load in _TAGS},
}


def _untagged(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) == 1 and (revive := _REVIVE.get(pairs[0][0])):
        return revive(pairs[0][1])
    return dict(pairs)


class PickleSerializer(Serializer):
    """Pickle: any Python value, readable by nothing else.

    Whoever can write to the table can run code in every worker. The command line and the HTTP
    API never decode it.
    """

    def dumps(self, value: Any) -> bytes:
        """Encode *value* as a pickle."""
        return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)

    def loads(self, data: str | bytes) -> Any:
        """Decode a pickle; what another producer wrote as JSON is read as JSON."""
        if isinstance(data, str):
            return json.loads(data)
        return pickle.loads(data)  # noqa: S301  # opted into, and documented


# Storing ------------------------------------------------------------------------------------------

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_EXPONENTS = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?[eE]\+?\d+')


def encode(serializer: Serializer, value: Any, what: str, limit: int | None = None) -> str:
    """Encode *value* to JSON text that Postgres stores, or raise SerializationError naming *what*."""
    try:
        data = serializer.dumps(value)
        text = data if isinstance(data, str) else _wrap(data)
        # Also finds what is not Unicode.
        size = len(text) if text.isascii() else len(text.encode())
    except SerializationError:
        raise
    except UnicodeEncodeError as error:
        raise SerializationError(
            f"{what} cannot be stored: text that is not Unicode (a lone surrogate): {error.reason}"
        ) from error
    except RecursionError as error:
        raise SerializationError(f"{what} cannot be stored: nested too deeply, or containing itself") from error
    except Exception as error:
        raise SerializationError(f"{what} cannot be encoded by {type(serializer).__name__}: {error}") from error
    if isinstance(data, str) and _wrapped(serializer, text) is not None:
        raise SerializationError(
            f'{what} is an object of nothing but "$bytes", which stands for the bytes of another serializer'
        )
    if "\\u0000" in text and _NUL.search(text):
        raise SerializationError(
            f"{what} cannot be stored: Postgres takes no NUL character in JSON; pass it as bytes "
            "with TypedJSONSerializer, or encode it"
        )
    if limit is not None and size > limit:
        raise SerializationError(
            f"{what} is {size} bytes, more than max_payload_bytes={limit}; store it elsewhere and pass a reference"
        )
    if "e+" in text or "E+" in text:
        # jsonb would print 1e+23 as an integer, which is another number than the float.
        text = _EXPONENTS.sub(_expanded, text)
    return text


def decode(serializer: Serializer, text: str) -> Any:
    """Decode stored JSON text, or raise SerializationError."""
    try:
        wrapped = _wrapped(serializer, text)
        if wrapped is not None:
            return serializer.loads(base64.b64decode(wrapped))
        return serializer.loads(text)
    except Exception as error:
        raise SerializationError(f"a stored value cannot be decoded by {type(serializer).__name__}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Undecodable:
    """Stands for a stored value that the serializer cannot decode."""

    text: str
    reason: str


def decode_or_stand_in(serializer: Serializer, text: str) -> Any:
    """Decode for display: one unreadable value must not hide the other jobs."""
    try:
        return decode(serializer, text)
    except SerializationError as error:
        return Undecodable(text, str(error))


def storable_text(text: str, limit: int = 100_000) -> str:
    """Make a traceback storable: no NUL, no lone surrogates, the middle cut out of an endless one."""
    if len(text) > limit:
        cut = len(text) - limit
        text = f"{text[: limit // 2]}\n… {cut} characters left out …\n{text[-limit // 2 :]}"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _wrapped(serializer: Serializer, text: str) -> str | None:
    """The bytes (as base64) that a text stands for; None when it is a value of its own."""
    if not text.startswith('{"$bytes"') or isinstance(serializer, TypedJSONSerializer):
        return None
    value = json.loads(text)
    return value["$bytes"] if len(value) == 1 else None


def _wrap(data: bytes) -> str:
    return json.dumps({"$bytes": base64.b64encode(data).decode()})


def _expanded(match: re.Match[str]) -> str:
    number = match[0]
    if number.startswith('"'):
        return number
    text = format(Decimal(number), "f")
    return text if "." in text else text + ".0"
