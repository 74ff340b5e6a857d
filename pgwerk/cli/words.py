"""Values as people read them: ages, times, one-line reasons. Pure; what comes from a job is made printable here.

They take what `pgwerk.views` gives: times as ISO 8601 text, values as JSON has them.
"""

import json
from datetime import UTC, datetime
from typing import Any

from pgwerk.logs import printable
from pgwerk.views import UNDECODABLE

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


def ago(moment: str | None, now: datetime) -> str:
    """Say how long ago, or in how long."""
    if moment is None:
        return NOTHING
    seconds = (now - datetime.fromisoformat(moment)).total_seconds()
    return f"in {duration(-seconds)}" if seconds < -0.5 else f"{duration(max(0, seconds))} ago"


def moment(value: str | None, now: datetime) -> str:
    """Say when, both ways."""
    if value is None:
        return NOTHING
    return f"{datetime.fromisoformat(value).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC ({ago(value, now)})"


def reason(text: str | None) -> str:
    """Say what a job or an execution raised, on one line."""
    return printable(text) if text else NOTHING


def value(found: Any) -> str:
    """A payload, result or meta of a view, as JSON on one line; one that cannot be decoded as the reason."""
    return printable(json.dumps(_readable(found), ensure_ascii=False))


def call(args: list[Any], kwargs: dict[str, Any]) -> str:
    """Arguments of a view as they would be written in Python."""
    parts = [repr(_readable(arg)) for arg in args]
    parts += [f"{name}={_readable(arg)!r}" for name, arg in kwargs.items()]
    return printable(", ".join(parts))


def _readable(found: Any) -> Any:
    return f"({found[UNDECODABLE]})" if isinstance(found, dict) and UNDECODABLE in found else found
