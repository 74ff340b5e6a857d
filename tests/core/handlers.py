"""Functions for the tests to enqueue."""

from functools import partial
from typing import Any

from pgwerk import Context


def add(a: int, b: int = 0) -> int:
    return a + b


def anything(*args: Any, **kwargs: Any) -> None:
    """Takes all there is."""


def named(ctx: Any, a: int) -> None:
    """Is given a context by its name."""


def annotated(context: Context, a: int) -> None:
    """Is given a context by its annotation."""


def annotated_in_text(context: "Context", a: int) -> None:
    """Is given a context by its annotation, as text."""


def keyword_only(*, ctx: Any = None) -> None:
    """Is given none: a context is positional."""


class Service:
    def method(self) -> None:
        """Cannot be imported bound."""

    @staticmethod
    def static(a: int) -> int:
        return a

    @classmethod
    def make(cls) -> None:
        """Bound to the class."""


class Callable:
    def __call__(self) -> None:
        """An object without a name."""


nameless = lambda: None  # noqa: E731  # the point
partly = partial(add, 1)
instance = Callable()


def make_local() -> Any:
    def local() -> None:
        """Cannot be imported."""

    return local


class Task:
    """What a decorator makes of a function."""

    __pgwerk_function__ = staticmethod(add)


task = Task()
