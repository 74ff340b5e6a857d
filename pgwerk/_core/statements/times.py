"""Times that are read as seconds since 1970, in text: no setting of a connection and no value makes that fail."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)


def epoch(expression: str) -> str:
    """Write SQL that selects a time for `moment`: the text of a timestamp depends on DateStyle and TimeZone."""
    return f"extract(epoch from {expression})::text"


def moment(text: str | None) -> datetime | None:
    """Read a time in UTC; one that Python has not (infinity, before Christ, after 9999) becomes the nearest it has."""
    if text is None:
        return None
    try:
        if text[-7:-6] == "." and text[0] != "-":
            # As nearly all are: each enqueue reads one.
            return EPOCH + timedelta(0, int(text[:-7]), int(text[-6:]))
        seconds = Decimal(text)
        return EPOCH + timedelta(microseconds=int(seconds * 1_000_000))
    except OverflowError:
        return EARLIEST if text[0] == "-" else LATEST
