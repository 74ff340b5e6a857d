"""Arrays as parameters, each in the cheapest form that its connection takes."""

import struct
from collections.abc import Iterable, Sequence


def array(values: Iterable[object]) -> str:
    """Write ids or numbers as the text of a Postgres array: far cheaper than a list that the driver has to quote.

    Not for other texts. It is a parameter all the same, never part of a statement.
    """
    return f"{{{','.join(map(str, values))}}}"


class Packed(bytes):
    """An array in Postgres's own binary form, which neither side has to write or read as text.

    Its parameter must be cast to the array's type. Not for statements that may run on a caller's connection, whose
    driver would not know how to send it.
    """


def packed_ids(ids: Sequence[str]) -> Packed:
    """Pack UUIDs, given in hexadecimal."""
    size = f"{_UUID_SIZE:08x}"
    elements = f"{size}{size.join(ids)}" if ids else ""
    return _packed(_UUID, len(ids), bytes.fromhex(elements.replace("-", "")))


def packed_integers(values: Sequence[int]) -> Packed:
    """Pack numbers as bigint[]."""
    return _packed(_BIGINT, len(values), b"".join([_INTEGER(8, value) for value in values]))


def packed_floats(values: Sequence[float]) -> Packed:
    """Pack numbers as double precision[]."""
    return _packed(_DOUBLE, len(values), b"".join([_FLOAT(8, value) for value in values]))


# The types' numbers are those of the catalogue of every Postgres. One dimension, no nulls; an empty array has none.
_BIGINT, _DOUBLE, _UUID, _UUID_SIZE = 20, 701, 2950, 16
_HEAD = struct.Struct(">iiI")
_DIMENSION = struct.Struct(">ii")
_INTEGER = struct.Struct(">iq").pack
_FLOAT = struct.Struct(">id").pack


def _packed(kind: int, count: int, elements: bytes) -> Packed:
    head = _HEAD.pack(min(count, 1), 0, kind)
    return Packed(head + _DIMENSION.pack(count, 1) + elements if count else head)
