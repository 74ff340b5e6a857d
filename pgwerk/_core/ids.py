"""UUIDv7: ids that sort by time, made from a time and a draw that are handed in (RFC 9562, section 5.7)."""

from uuid import UUID


def uuid7(milliseconds: int, fraction: int, draw: int) -> str:
    """Compose an id of a Unix time in ms, 12 bits that order ids within it, and 62 random bits."""
    return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031  # half the time of a format string
        milliseconds >> 16 & 0xFFFFFFFF,
        milliseconds & 0xFFFF,
        fraction & 0xFFF,
        0x8000 | draw >> 48 & 0x3FFF,
        draw & 0xFFFFFFFFFFFF,
    )


def normal_id(value: object) -> str | None:
    """The canonical text of a UUID, None for what is none."""
    if isinstance(value, UUID):
        return str(value)
    text = str(value)
    try:
        return str(UUID(text))
    except ValueError:
        return None
