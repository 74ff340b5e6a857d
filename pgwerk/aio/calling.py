"""Waiting for jobs with the asyncio app: for their ends, or for their results."""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, TypeVar, overload

from pgwerk._app import requests
from pgwerk._app.calls import ids_to_wait_for, newly_enqueued, refuse_to_wait, result_of, results_of, split_call
from pgwerk._app.deadlines import deadline, remaining
from pgwerk._app.waiting import TimeLeft
from pgwerk._core.job import Job
from pgwerk._core.options import CallbackLike, DependsOn, FailureModeLike, Group, Repeat, Retry, Seconds
from pgwerk._core.statements import queries
from pgwerk.aio.enqueueing import Enqueueing

T = TypeVar("T")


class Calling(Enqueueing):
    """What an app does to wait for jobs."""

    async def wait_for(self, job: Job | str, *, timeout: float | None = None, poll_interval: float = 2.0) -> Job:
        """Wait until a job has ended and return it.

        Woken by the end itself; *poll_interval* only matters where notifications do not get through.
        Raises JobTimeout after *timeout* seconds, JobNotFound when it does not exist (any more).
        """
        await self._runtime.wait([requests.job_id(job)], timeout, poll_interval)
        return await self._runtime.run(requests.get_job(job, self._app.decode))

    # fmt: off
    @overload
    async def apply(
        self, func: Callable[..., Coroutine[Any, Any, T]], /, *args: Any,
        timeout: float | None = None, poll_interval: float = 0.5, _key: str | None = None,
        _queue: str | None = None, _priority: int | None = None, _delay: Seconds | None = None,
        _at: datetime | None = None, _retry: Retry | int | None = None, _timeout: Seconds | None = None,
        _heartbeat: Seconds | None = None, _group: Group | str | None = None, _meta: dict[str, Any] | None = None,
        _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None, _ttl: Seconds | None = None,
        _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _sync: bool | None = None, **kwargs: Any,
    ) -> T: ...
    @overload
    async def apply(
        self, func: Callable[..., T], /, *args: Any,
        timeout: float | None = None, poll_interval: float = 0.5, _key: str | None = None,
        _queue: str | None = None, _priority: int | None = None, _delay: Seconds | None = None,
        _at: datetime | None = None, _retry: Retry | int | None = None, _timeout: Seconds | None = None,
        _heartbeat: Seconds | None = None, _group: Group | str | None = None, _meta: dict[str, Any] | None = None,
        _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None, _ttl: Seconds | None = None,
        _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _sync: bool | None = None, **kwargs: Any,
    ) -> T: ...
    @overload
    async def apply(
        self, func: str, /, *args: Any,
        timeout: float | None = None, poll_interval: float = 0.5, _key: str | None = None,
        _queue: str | None = None, _priority: int | None = None, _delay: Seconds | None = None,
        _at: datetime | None = None, _retry: Retry | int | None = None, _timeout: Seconds | None = None,
        _heartbeat: Seconds | None = None, _group: Group | str | None = None, _meta: dict[str, Any] | None = None,
        _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None, _ttl: Seconds | None = None,
        _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _sync: bool | None = None, **kwargs: Any,
    ) -> Any: ...
    # fmt: on
    async def apply(
        self,
        func: Callable[..., Any] | str,
        /,
        *args: Any,
        timeout: float | None = None,
        poll_interval: float = 0.5,
        **kwargs: Any,
    ) -> Any:
        """Enqueue a call, wait for its end and return its result.

        Raises JobError (with `.job`) when it fails or is aborted, JobTimeout after *timeout* seconds.
        """
        options, own = split_call(kwargs)
        return await self._apply_call(func, args, own, options, timeout, poll_interval)

    async def _apply_call(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        timeout: float | None,
        poll_interval: float = 0.5,
    ) -> Any:
        """Do `apply` with the options apart from the arguments, as tasks do."""
        refuse_to_wait("apply", options)
        with deadline(timeout):
            job = newly_enqueued(await self._enqueue_call(func, args, kwargs, options), options)
            left = TimeLeft.of(timeout, remaining())
        return result_of(await self.wait_for(job, timeout=left, poll_interval=poll_interval))

    # fmt: off
    @overload
    async def map(
        self, func: Callable[..., Coroutine[Any, Any, T]], iter_kwargs: Iterable[Mapping[str, Any]], *,
        timeout: float | None = None, poll_interval: float = 0.5, return_exceptions: Literal[False] = False,
        _queue: str | None = None, _priority: int | None = None, _delay: Seconds | None = None,
        _at: datetime | None = None, _retry: Retry | int | None = None, _timeout: Seconds | None = None,
        _heartbeat: Seconds | None = None, _group: Group | str | None = None, _meta: dict[str, Any] | None = None,
        _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None, _ttl: Seconds | None = None,
        _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _sync: bool | None = None, **shared: Any,
    ) -> list[T]: ...
    @overload
    async def map(
        self, func: Callable[..., T], iter_kwargs: Iterable[Mapping[str, Any]], *,
        timeout: float | None = None, poll_interval: float = 0.5, return_exceptions: Literal[False] = False,
        _queue: str | None = None, _priority: int | None = None, _delay: Seconds | None = None,
        _at: datetime | None = None, _retry: Retry | int | None = None, _timeout: Seconds | None = None,
        _heartbeat: Seconds | None = None, _group: Group | str | None = None, _meta: dict[str, Any] | None = None,
        _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None, _ttl: Seconds | None = None,
        _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _sync: bool | None = None, **shared: Any,
    ) -> list[T]: ...
    @overload
    async def map(
        self, func: str, iter_kwargs: Iterable[Mapping[str, Any]], *,
        timeout: float | None = None, poll_interval: float = 0.5, return_exceptions: Literal[False] = False,
        _queue: str | None = None, _priority: int | None = None, _delay: Seconds | None = None,
        _at: datetime | None = None, _retry: Retry | int | None = None, _timeout: Seconds | None = None,
        _heartbeat: Seconds | None = None, _group: Group | str | None = None, _meta: dict[str, Any] | None = None,
        _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None, _ttl: Seconds | None = None,
        _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _sync: bool | None = None, **shared: Any,
    ) -> list[Any]: ...
    @overload
    async def map(
        self, func: Callable[..., Any] | str, iter_kwargs: Iterable[Mapping[str, Any]], *,
        timeout: float | None = None, poll_interval: float = 0.5, return_exceptions: bool,
        _queue: str | None = None, _priority: int | None = None, _delay: Seconds | None = None,
        _at: datetime | None = None, _retry: Retry | int | None = None, _timeout: Seconds | None = None,
        _heartbeat: Seconds | None = None, _group: Group | str | None = None, _meta: dict[str, Any] | None = None,
        _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None, _ttl: Seconds | None = None,
        _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _sync: bool | None = None, **shared: Any,
    ) -> list[Any]: ...
    # fmt: on
    async def map(
        self,
        func: Callable[..., Any] | str,
        iter_kwargs: Iterable[Mapping[str, Any]],
        *,
        timeout: float | None = None,
        poll_interval: float = 0.5,
        return_exceptions: bool = False,
        **shared: Any,
    ) -> list[Any]:
        """Enqueue a call for each dict of arguments and return the results in their order.

        *shared*: arguments and options of every call. With *return_exceptions* a JobError stands where a job did
        not succeed, else the first is raised.
        """
        calls = self._app.calls(func, iter_kwargs, shared)
        new_jobs = [await self._after_hooks(draft) for draft, _ in calls]
        left: float | None = timeout
        if any(options.get("sync") for _, options in calls):
            jobs = [await self._place(new_job, options) for new_job, (_, options) in zip(new_jobs, calls, strict=True)]
        else:
            with deadline(timeout):
                jobs = await self._insert(new_jobs, None)
                left = TimeLeft.of(timeout, remaining())
        ids = ids_to_wait_for(new_jobs, jobs, return_exceptions=return_exceptions)
        if ids:
            await self._runtime.wait(ids, left, poll_interval)
        ended = await self._runtime.run(queries.get_many(ids, self._app.decode))
        return results_of(new_jobs, jobs, ended, return_exceptions=return_exceptions)
