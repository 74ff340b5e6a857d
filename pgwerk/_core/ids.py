"""UUIDv7: ids that sort by time, made from a time and a draw that are handed in (RFC 9562, section 5.7)."""

from uuid import UUID


def uuid7(milliseconds: int, fraction: int, draw: int) -> str:
    """Compose an id of a Unix time in ms, 12 bits that order ids within it, and 62 random bits."""
    value = (milliseconds & (1 << 48) - 1) << 80
    value |= 0x7 << 76 | (fraction & 0xFFF) << 64
    value |= 0b10 << 62 | draw & (1 << 62) - 1
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def normal_id(value: object) -> str | None:
    """The canonical text of a UUID, None for what is none."""
    if isinstance(value, UUID):
        return str(value)
    text = str(value)
    try:
        return str(UUID(text))
    except ValueError:
        return None
