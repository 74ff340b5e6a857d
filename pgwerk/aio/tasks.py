"""Tasks of the asyncio app."""

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack, overload

from pgwerk._app.tasks import BaseTask, seconds_of
from pgwerk._core.context import Context
from pgwerk._core.job import Job
from pgwerk._core.options import TaskOptions

P = ParamSpec("P")
C_co = TypeVar("C_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


class _Task(BaseTask[P, C_co], Generic[P, C_co, R_co]):
    """What all tasks have."""

    async def apply(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Enqueue a call, wait for its end and return its result; raises JobError. For a limit: `apply_within`."""
        result: R_co = await self.app._apply_call(self, args, kwargs, self.__pgwerk_options__, None)  # noqa: SLF001
        return result

    async def apply_within(self, timeout: float | timedelta, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Like `apply`, waiting at most *timeout* seconds; then it raises JobTimeout."""
        options, seconds = self.__pgwerk_options__, seconds_of(timeout)
        result: R_co = await self.app._apply_call(self, args, kwargs, options, seconds)  # noqa: SLF001
        return result

    def _with(self, options: Mapping[str, Any]) -> Any:
        options = {**self.__pgwerk_options__, **options}
        kind: Any = Task if options.get("key") is None else KeyedTask
        return kind(self.app, self.__pgwerk_function__, options)


class Task(_Task[P, C_co, R_co]):
    """A function of an app; made by ``@app.task``."""

    @overload
    def options(self, **options: Unpack[TaskOptions]) -> "Task[P, C_co, R_co]": ...
    @overload
    def options(self, *, key: str | None, **options: Unpack[TaskOptions]) -> "KeyedTask[P, C_co, R_co]": ...
    def options(self, **options: Any) -> Any:
        """Return the same task with other options (those of enqueue, without the underscore); this one stays as it is.

        With `key` it is a `KeyedTask`.
        """
        return self._with(options)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job:
        """Enqueue a call. Raises EnqueueError before anything is written."""
        job: Job = await self.app._enqueue_call(self, args, kwargs, self.__pgwerk_options__)  # noqa: SLF001
        return job


class KeyedTask(_Task[P, C_co, R_co]):
    """A task whose jobs have a key; made by ``task.options(key=…)``.

    Type checkers know of the key here, and not in ``app.enqueue(task, …)``.
    """

    def options(self, *, key: str | None = None, **options: Unpack[TaskOptions]) -> "KeyedTask[P, C_co, R_co]":
        """Return the same task with other options, or with another key; this one stays as it is."""
        changed: KeyedTask[P, C_co, R_co] = self._with(options if key is None else {**options, "key": key})
        return changed

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job | None:
        """Enqueue a call. None: the key exists. Raises EnqueueError before anything is written."""
        options = self.__pgwerk_options__
        job: Job | None = await self.app._enqueue_call(self, args, kwargs, options)  # noqa: SLF001
        return job


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


class KeyedTaskDecorator:
    """What ``@app.task(key=…)`` returns: takes the function."""

    def __init__(self, app: Any, options: Mapping[str, Any]) -> None:
        self._app = app
        self._options = options

    @overload
    def __call__(
        self, func: Callable[Concatenate[Context, P], Coroutine[Any, Any, R_co]]
    ) -> KeyedTask[P, Coroutine[Any, Any, R_co], R_co]: ...
    @overload
    def __call__(self, func: Callable[Concatenate[Context, P], R_co]) -> KeyedTask[P, R_co, R_co]: ...
    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R_co]]
    ) -> KeyedTask[P, Coroutine[Any, Any, R_co], R_co]: ...
    @overload
    def __call__(self, func: Callable[P, R_co]) -> KeyedTask[P, R_co, R_co]: ...
    def __call__(self, func: Callable[..., Any]) -> Any:
        """Make *func* a task."""
        return KeyedTask(self._app, func, self._options)
