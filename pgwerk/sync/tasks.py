"""Tasks of the synchronous app."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from pgwerk._core.context import Context
from pgwerk._core.job import Job
from pgwerk._tasks import BaseTask

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class Task(BaseTask[P, R_co]):
    """A function of an app; made by ``@app.task``."""

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job | None:
        """Enqueue a call. None: the task's `key` exists. Raises EnqueueError before anything is written."""
        job: Job | None = self.app.enqueue_call(self, args, kwargs, self.__pgwerk_options__)
        return job

    def apply(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Enqueue a call, wait for its end and return its result; raises JobError. For a limit: `apply_within`."""
        result: R_co = self.app.apply_call(self, args, kwargs, self.__pgwerk_options__, None)
        return result

    def apply_within(self, timeout: float | timedelta, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Like `apply`, waiting at most *timeout* seconds; then it raises JobTimeout."""
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        result: R_co = self.app.apply_call(self, args, kwargs, self.__pgwerk_options__, seconds)
        return result


class TaskDecorator:
    """What ``@app.task(…)`` returns: takes the function."""

    def __init__(self, app: Any, options: Mapping[str, Any]) -> None:
        self._app = app
        self._options = options

    @overload
    def __call__(self, func: Callable[Concatenate[Context, P], R_co]) -> Task[P, R_co]: ...
    @overload
    def __call__(self, func: Callable[P, R_co]) -> Task[P, R_co]: ...
    def __call__(self, func: Callable[..., Any]) -> Any:
        """Make *func* a task."""
        return Task(self._app, func, self._options)
