"""A value that is made when it is first asked for."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """What *make* returns, made at the first call and the same for everybody from then on.

    Without a lock, which a fork would leave locked in the child: threads that meet may each call *make*, and all get
    the value of one of them. So nobody misses the others.
    """

    __slots__ = ("_kept", "_make")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._kept: dict[None, T] = {}

    def __call__(self) -> T:
        """Return the value."""
        if not self._kept:
            # By setdefault, which is atomic.
            return self._kept.setdefault(None, self._make())
        return self._kept[None]

    @property
    def made(self) -> T | None:
        """The value if there is one; asking makes none."""
        return self._kept.get(None)
