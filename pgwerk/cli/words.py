"""Values as people read them: ages, times, one-line reasons. Pure; what comes from a job is made printable here."""

import json
from datetime import UTC, datetime
from typing import Any

from pgwerk.logs import printable

NOTHING = "-"


def duration(seconds: float | None) -> str:
    """Say how long: two digits are enough."""
    if seconds is None:
        return NOTHING
    if 0 < seconds < 0.001:
        return "<1 ms"
    for limit, size, unit in ((0.9995, 0.001, "ms"), (120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit == "s" and value < 10 else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def ago(moment: datetime | None, now: datetime) -> str:
    """Say how long ago, or in how long."""
    if moment is None:
        return NOTHING
    seconds = (now - moment).total_seconds()
    return f"in {duration(-seconds)}" if seconds < -0.5 else f"{duration(max(0, seconds))} ago"


def moment(value: datetime | None, now: datetime) -> str:
    """Say when, both ways."""
    if value is None:
        return NOTHING
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC ({ago(value, now)})"


def reason(of: Any) -> str:
    """Say what a job or an execution raised, on one line."""
    return printable(of.reason) if of.reason else NOTHING


def value(found: Any) -> str:
    """A payload, result or meta, as JSON on one line."""
    return printable(json.dumps(plain(found), ensure_ascii=False))


def call(args: Any, kwargs: Any) -> str:
    """Arguments as they would be written in Python."""
    parts = [repr(plain(arg)) for arg in args]
    parts += [f"{name}={plain(arg)!r}" for name, arg in dict(kwargs).items()]
    return printable(", ".join(parts))


def plain(found: Any) -> Any:
    """What JSON can hold of *found*; the rest as text."""
    if isinstance(found, str):
        return str(found)
    if found is None or isinstance(found, bool | int | float):
        return found
    if isinstance(found, datetime):
        return found.isoformat()
    if isinstance(found, dict):
        return {str(name): plain(item) for name, item in found.items()}
    if isinstance(found, list | tuple | set | frozenset):
        return [plain(item) for item in found]
    if hasattr(found, "reason") and hasattr(found, "text"):  # a stored value that cannot be decoded
        return f"({found.reason})"
    return str(found)
