"""UUIDv7: ids that sort by time, made from a time and a draw that are handed in (RFC 9562, section 5.7)."""

from uuid import UUID


def uuid7(milliseconds: int, fraction: int, draw: int) -> str:
    """Compose an id of a Unix time in ms, 12 bits that order ids within it, and 62 random bits."""
    time = f"{milliseconds & (1 << 48) - 1:012x}"
    rest = f"{0b10 << 62 | draw & (1 << 62) - 1:016x}"
    return f"{time[:8]}-{time[8:]}-7{fraction & 0xFFF:03x}-{rest[:4]}-{rest[4:]}"


def normal_id(value: object) -> str | None:
    """The canonical text of a UUID, None for what is none."""
    if isinstance(value, UUID):
        return str(value)
    text = str(value)
    try:
        return str(UUID(text))
    except ValueError:
        return None
