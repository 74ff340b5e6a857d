"""What the jobs of these tests would run."""

from typing import Any


def work(*args: Any, **kwargs: Any) -> list[Any]:
    return [*args, kwargs]


def refused() -> None:
    """A check constraint of some tests does not let it in."""
