"""JSON as Postgres stores it: what it refuses is refused, and what is read again is written as it writes it."""

import json
import re
from decimal import Decimal
from typing import Any

from pgwerk.errors import DatabaseError, SerializationError

_SURROGATES = re.compile("[\ud800-\udfff]")
_DIGITS = 131072
"""The digits that a numeric of Postgres may have before the point."""
_FRACTION = 16383
"""And behind it."""


def jsonb(text: str) -> str:
    """The text that Postgres would give back for this one; raises SerializationError where it would refuse it."""
    if "\0" in text:
        raise DatabaseError("this JSON cannot be stored: a text in it holds NUL (0x00)")
    try:
        value = _DECODER.decode(text)
        if "\\u" in text or not text.isascii():
            _check_texts(value)
        return _written(value) if _has_numbers(value) else _ENCODER.encode(value)
    except RecursionError:
        raise SerializationError("this JSON cannot be stored: it is nested too deeply") from None
    except ValueError as error:
        raise SerializationError(f"this JSON cannot be stored: {error}") from None


class _Number(Decimal):
    """A number whose text JSON encoders of Python's would not write as Postgres does."""


def _number(text: str) -> "float | int | _Number":
    """A number that is written as Postgres writes it: with the digits that it came with, and without an exponent."""
    if text == "-0":
        return 0
    if "e" not in text and "E" not in text and "." not in text:
        if len(text) < 4000:  # of more digits Python makes no int, unless it is told to
            return int(text)
    elif "e" not in text and (plain := float(text)) and repr(plain) == text:
        return plain
    exact = _Number(text)
    if not exact:
        # Zero has no sign there, but the places behind the point that it came with.
        exact = _Number(text.removeprefix("-"))
    if exact and exact.adjusted() >= _DIGITS:
        raise ValueError("a number in it is out of range")
    exponent = exact.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > _FRACTION:
        raise ValueError("a number in it has too many digits")
    return exact


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in the order of jsonb: the shorter keys first; of several of the same name the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        # What is left out may be wrong, too.
        _check_texts([value for _, value in pairs])
    return found if len(found) < 2 else {key: found[key] for key in sorted(found, key=_rank)}


def _rank(key: str) -> tuple[int, bytes]:
    encoded = key.encode(errors="surrogatepass")
    return len(encoded), encoded


_DECODER = json.JSONDecoder(parse_int=_number, parse_float=_number, parse_constant=_constant, object_pairs_hook=_pairs)
_ENCODER = json.JSONEncoder(ensure_ascii=False)


def _check_texts(value: Any) -> None:
    todo = [value]
    while todo:
        match todo.pop():
            case str() as text:
                if "\0" in text:
                    raise ValueError(r"a text in it holds NUL (\u0000)")
                if _SURROGATES.search(text):
                    raise ValueError("a text in it holds a lone surrogate")
            case dict() as items:
                todo += items
                todo += items.values()
            case list() as items:
                todo += items
            case _:
                pass


def _has_numbers(value: Any) -> bool:
    todo = [value]
    while todo:
        match todo.pop():
            case _Number():
                return True
            case dict() as items:
                todo += items.values()
            case list() as items:
                todo += items
            case _:
                pass
    return False


def _written(value: Any) -> str:
    match value:
        case _Number():
            return f"{value:f}"
        case dict():
            return f"{{{', '.join(f'{_ENCODER.encode(key)}: {_written(item)}' for key, item in value.items())}}}"
        case list():
            return f"[{', '.join(map(_written, value))}]"
        case _:
            return _ENCODER.encode(value)
