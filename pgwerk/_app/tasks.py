"""What a task is on both sides: a function that can still be called, with options for its jobs."""

import functools
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar

from pgwerk._core import registry
from pgwerk._core.enqueue_options import check_options

P = ParamSpec("P")
C_co = TypeVar("C_co", covariant=True)
"""What a call returns: of a coroutine function, a coroutine."""


class BaseTask(Generic[P, C_co]):
    """A function of an app, with the options that its jobs have unless a call says otherwise."""

    def __init__(self, app: Any, func: Callable[..., C_co], options: Mapping[str, Any]) -> None:
        # First: of a task it would bring the app and the options.
        functools.update_wrapper(self, func)
        self.app = app
        self._function = func
        self.__pgwerk_options__ = check_options(options)
        # Refused here, where it is written, rather than at the first enqueue.
        self.path = registry.path_of(func)

    @property
    def __pgwerk_function__(self) -> Callable[..., C_co]:
        """The function itself. An attribute of the class: what a decorator makes of a task has only a task's own."""
        return self._function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C_co:
        """Call the function here and now."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.path}>"


def seconds_of(timeout: float | timedelta) -> float:
    """A duration in seconds."""
    return timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
