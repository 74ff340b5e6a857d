"""How psycopg writes our parameters and reads our rows: alike on every connection, whatever that was told.

An application may have registered loaders and dumpers of its own, for one connection or for all; Django does. And a
connection may have another encoding than UTF-8, for which psycopg reads text as bytes or JSON not at all.
"""

import codecs
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from psycopg import AsyncCursor, Cursor, postgres, pq
from psycopg.abc import AdaptContext
from psycopg.adapt import AdaptersMap, Buffer, Dumper, Loader
from psycopg.types import array
from psycopg.types.string import TextLoader

from pgwerk._core.statements.arrays import Packed
from pgwerk._core.statements.columns import JSON_COLUMNS
from pgwerk.errors import SerializationError


class _PackedDumper(Dumper):
    """Sends what is packed as it is; its type is that of the cast around the parameter."""

    format = pq.Format.BINARY

    def dump(self, obj: Packed) -> Buffer:
        return obj


class _TextLoader(Loader):
    """Reads text also where nobody knows its encoding."""

    def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
        super().__init__(oid, context)
        codec = self.connection.info.encoding if self.connection else "utf-8"
        # SQL_ASCII: whatever bytes there are. What we wrote ourselves is UTF-8.
        self._codec = "utf-8" if codec == "ascii" else codec

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(self._codec, "replace")  # which is no escape in JSON


class _TextBinaryLoader(_TextLoader):
    format = pq.Format.BINARY


class _JsonLoader(_TextLoader):
    def load(self, data: Buffer) -> Any:
        return json.loads(super().load(data))


_TEXTS = ("text", "varchar", "bpchar", "name")


def _plain() -> AdaptersMap:
    made = AdaptersMap(types=postgres.types)
    # The global ones are the application's to change.
    postgres.register_default_adapters(made)
    array.register_all_arrays(made)
    # A time is not read as such, see `statements.times`: in some settings psycopg could not.
    made.register_loader("timestamptz", TextLoader)
    made.register_dumper(Packed, _PackedDumper)
    return made


PLAIN = _plain()
"""What psycopg has by itself, and ours."""


def _tolerant() -> AdaptersMap:
    made = AdaptersMap(PLAIN)
    for name in _TEXTS:
        made.register_loader(name, _TextLoader)
        made.register_loader(name, _TextBinaryLoader)
    for name in ("json", "jsonb"):
        made.register_loader(name, _JsonLoader)
    return made


_TOLERANT = _tolerant()


def _adapters_of(pgconn: pq.abc.PGconn) -> AdaptersMap:
    return PLAIN if pgconn.parameter_status(b"client_encoding") == b"UTF8" else _TOLERANT


class PlainCursor(Cursor[Any]):
    """A cursor that neither knows nor changes what its connection was told about types."""

    @property
    def adapters(self) -> AdaptersMap:
        """Its own, not those of its connection."""
        return _adapters_of(self._pgconn)


class AsyncPlainCursor(AsyncCursor[Any]):
    """The same for asyncio."""

    @property
    def adapters(self) -> AdaptersMap:
        """Its own, not those of its connection."""
        return _adapters_of(self._pgconn)


# Encodings --------------------------------------------------------------------------


@lru_cache(maxsize=32)
def codec_of(name: str) -> str | None:
    """The codec of Python's for an encoding of Postgres's; None for one that takes all we send, or is unknown."""
    if name in ("UTF8", "UNICODE", "SQL_ASCII"):
        return None
    try:
        return codecs.lookup(_CODECS.get(name) or re.sub("^WIN", "cp", name)).name
    except LookupError:
        return None


_CODECS = {"KOI8R": "koi8_r", "KOI8U": "koi8_u"}

_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
_REPLACED = ("error", "errors")
"""Parameters with texts for people, which are better stored in part than not at all."""
_JSON = JSON_COLUMNS | {"metadata", "results", "value"}
"""Parameters with JSON text, in which a character may stand as an escape."""


def fits_all(client: bytes | None, server: bytes | None) -> bool:
    """Whether any text fits the encodings of a connection as it is."""
    return client == b"UTF8" and server in _ANY


_ANY = (b"UTF8", b"SQL_ASCII")


def fitting(params: Mapping[str, Any], client: bytes | None, server: bytes | None) -> Mapping[str, Any]:
    """Make parameters fit the encodings of a connection, or raise SerializationError before anything is sent.

    What only the connection lacks goes as an escape in JSON; what the database itself lacks it cannot store.
    """
    stored, sent = codec_of((server or b"UTF8").decode()), codec_of((client or b"UTF8").decode())
    if client == b"SQL_ASCII" and server not in _ANY:
        # psycopg sends UTF-8, which this database would take for text in its own encoding.
        sent = "ascii"
    if stored is None and sent is None:
        return params
    return {name: _fitted(name, value, stored, sent) for name, value in params.items()}


def _fitted(name: str, value: Any, stored: str | None, sent: str | None) -> Any:
    if isinstance(value, list):
        return [_fitted(name, item, stored, sent) for item in value]
    if not isinstance(value, str) or value.isascii():
        return value
    if name in _REPLACED:
        for codec in (stored, sent):
            value = value.encode(codec, "backslashreplace").decode(codec) if codec else value
        return value
    if stored is not None and (lacking := _lacking(value, stored)):
        raise SerializationError(_refusal(name, lacking, f"the database, whose encoding is {stored}"))
    if sent is not None and (lacking := _lacking(value, sent)):
        if name in _JSON:
            return _BEYOND_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], value)
        raise SerializationError(_refusal(name, lacking, f"the connection, whose client_encoding is {sent}"))
    return value


def _lacking(text: str, codec: str) -> str | None:
    try:
        _ = text.encode(codec)
    except UnicodeEncodeError as error:
        return error.object[error.start]
    return None


def _refusal(name: str, lacking: str, where: str) -> str:
    return f"the {name} holds {lacking!r} ({lacking!a}), a character that is unknown to {where}"
