"""Tasks of the synchronous app."""

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from pgwerk._app.tasks import BaseTask, seconds_of
from pgwerk._core.context import Context
from pgwerk._core.job import Job

P = ParamSpec("P")
C_co = TypeVar("C_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


class Task(BaseTask[P, C_co], Generic[P, C_co, R_co]):
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
        options, seconds = self.__pgwerk_options__, seconds_of(timeout)
        result: R_co = self.app.apply_call(self, args, kwargs, options, seconds)
        return result


class TaskDecorator:
    """What ``@app.task(…)`` returns: takes the function."""

    def __init__(self, app: Any, options: Mapping[str, Any]) -> None:
        self._app = app
        self._options = options

    @overload
    def __call__(
        self, func: Callable[Concatenate[Context, P], Coroutine[Any, Any, R_co]]
    ) -> Task[P, Coroutine[Any, Any, R_co], R_co]: ...
    @overload
    def __call__(self, func: Callable[Concatenate[Context, P], R_co]) -> Task[P, R_co, R_co]: ...
    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R_co]]) -> Task[P, Coroutine[Any, Any, R_co], R_co]: ...
    @overload
    def __call__(self, func: Callable[P, R_co]) -> Task[P, R_co, R_co]: ...
    def __call__(self, func: Callable[..., Any]) -> Any:
        """Make *func* a task."""
        return Task(self._app, func, self._options)
