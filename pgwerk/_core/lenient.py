"""Reading what only SQL can have put into a row, so that one odd value does not hide the rows beside it."""

import json
import re
from datetime import UTC, datetime
from typing import Any

DEEPEST = 100
"""What is nested deeper is read as null."""
EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 30, tzinfo=UTC)
"""A day off the ends, so that they can be shown in any time zone."""

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]|[^"\[\]{}]+')


def loads(text: str) -> Any:
    """Decode JSON that Postgres printed; never raises. Numbers that are too long become floats."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return json.loads(_shallow(text), parse_int=_number)


def _number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _shallow(text: str) -> str:
    found: list[str] = []
    depth = 0
    for match in _TOKENS.finditer(text):
        token = match[0]
        depth += token in ("[", "{")
        if depth <= DEEPEST:
            found.append(token)
        elif depth == DEEPEST + 1 and token in ("[", "{"):
            found.append("null")
        depth -= token in ("]", "}")
    return "".join(found)


def moment(text: str) -> datetime:
    """Read a time as Postgres writes it into JSON, or the nearest that Python has; never raises."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return EARLIEST if text.startswith("-") or text.endswith("BC") else LATEST
