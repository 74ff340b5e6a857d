# Generated from pgwerk/aio/enqueueing.py: edit that file and run tools/unasync.py
"""Enqueueing with the synchronous app."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias, overload

from pgwerk._app.calls import Options, split_call, with_defaults
from pgwerk._app.faces import Face
from pgwerk._core.enqueueing import Draft
from pgwerk._core.job import Job
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.options import (
    CallbackLike,
    DependsOn,
    EnqueueParams,
    FailureModeLike,
    Group,
    Repeat,
    Retry,
    Seconds,
)
from pgwerk.sync.hooks import finish
from pgwerk.sync.inline import run_inline
from pgwerk.sync.runtime import Runtime

Function: TypeAlias = Callable[..., Any] | str
"""What can be enqueued: a module-level function, a task, or a dotted path."""


class Enqueueing(Face):
    """What an app does to enqueue jobs."""

    _runtime: Runtime

    # fmt: off
    @overload
    def enqueue(
        self, func: Function, /, *args: Any, _key: None = None,
        _queue: str | None = None, _priority: int | None = None, _delay: Seconds | None = None,
        _at: datetime | None = None, _retry: Retry | int | None = None, _timeout: Seconds | None = None,
        _heartbeat: Seconds | None = None, _group: Group | str | None = None, _meta: dict[str, Any] | None = None,
        _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None, _ttl: Seconds | None = None,
        _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _conn: Any = None, _sync: bool | None = None, **kwargs: Any,
    ) -> Job: ...
    @overload
    def enqueue(
        self, func: Function, /, *args: Any, _key: str | None,
        _queue: str | None = None, _priority: int | None = None, _delay: Seconds | None = None,
        _at: datetime | None = None, _retry: Retry | int | None = None, _timeout: Seconds | None = None,
        _heartbeat: Seconds | None = None, _group: Group | str | None = None, _meta: dict[str, Any] | None = None,
        _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None, _ttl: Seconds | None = None,
        _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _conn: Any = None, _sync: bool | None = None, **kwargs: Any,
    ) -> Job | None: ...
    # fmt: on
    def enqueue(self, func: Function, /, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a call of *func*; arguments with a leading underscore are options. None: its `_key` exists.

        *func* is a module-level function, a task or a dotted path. Durations are seconds or timedeltas. Raises
        EnqueueError or SerializationError before anything is written.
        """
        options, own = split_call(kwargs)
        return self._enqueue_call(func, args, own, options)

    def _enqueue_call(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options
    ) -> Job | None:
        """Enqueue a call with its options apart from its arguments, as tasks do."""
        options = with_defaults(func, options)
        return self._place(self._after_hooks(self._app.draft(func, args, kwargs, options)), options)

    def enqueue_many(self, specs: Iterable[EnqueueParams], *, _conn: Any = None) -> list[Job | None]:
        """Enqueue jobs in bulk, all or none of them; in their order, None where a key exists."""
        return self._insert([self._after_hooks(draft) for draft in self._app.drafts(specs)], _conn)

    # fmt: off
    @overload
    def enqueue_at(
        self, at: datetime, func: Function, /, *args: Any, _key: None = None,
        _queue: str | None = None, _priority: int | None = None, _retry: Retry | int | None = None,
        _timeout: Seconds | None = None, _heartbeat: Seconds | None = None, _group: Group | str | None = None,
        _meta: dict[str, Any] | None = None, _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None,
        _ttl: Seconds | None = None, _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _conn: Any = None, _sync: bool | None = None, **kwargs: Any,
    ) -> Job: ...
    @overload
    def enqueue_at(
        self, at: datetime, func: Function, /, *args: Any, _key: str | None,
        _queue: str | None = None, _priority: int | None = None, _retry: Retry | int | None = None,
        _timeout: Seconds | None = None, _heartbeat: Seconds | None = None, _group: Group | str | None = None,
        _meta: dict[str, Any] | None = None, _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None,
        _ttl: Seconds | None = None, _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _conn: Any = None, _sync: bool | None = None, **kwargs: Any,
    ) -> Job | None: ...
    # fmt: on
    def enqueue_at(self, at: datetime, func: Function, /, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a call for the time *at* (a naive time is UTC)."""
        options, own = split_call({**kwargs, "_at": at})
        return self._enqueue_call(func, args, own, options)

    # fmt: off
    @overload
    def enqueue_in(
        self, delay: Seconds, func: Function, /, *args: Any, _key: None = None,
        _queue: str | None = None, _priority: int | None = None, _retry: Retry | int | None = None,
        _timeout: Seconds | None = None, _heartbeat: Seconds | None = None, _group: Group | str | None = None,
        _meta: dict[str, Any] | None = None, _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None,
        _ttl: Seconds | None = None, _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _conn: Any = None, _sync: bool | None = None, **kwargs: Any,
    ) -> Job: ...
    @overload
    def enqueue_in(
        self, delay: Seconds, func: Function, /, *args: Any, _key: str | None,
        _queue: str | None = None, _priority: int | None = None, _retry: Retry | int | None = None,
        _timeout: Seconds | None = None, _heartbeat: Seconds | None = None, _group: Group | str | None = None,
        _meta: dict[str, Any] | None = None, _result_ttl: Seconds | None = None, _failure_ttl: Seconds | None = None,
        _ttl: Seconds | None = None, _on_success: CallbackLike | None = None, _on_failure: CallbackLike | None = None,
        _on_stopped: CallbackLike | None = None, _repeat: Repeat | None = None, _depends_on: DependsOn | None = None,
        _failure_mode: FailureModeLike | None = None, _schedule_name: str | None = None,
        _conn: Any = None, _sync: bool | None = None, **kwargs: Any,
    ) -> Job | None: ...
    # fmt: on
    def enqueue_in(self, delay: Seconds, func: Function, /, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a call for *delay* seconds from now."""
        options, own = split_call({**kwargs, "_delay": delay})
        return self._enqueue_call(func, args, own, options)

    def _after_hooks(self, draft: Draft) -> NewJob:
        for hook in tuple(self._app.before_enqueue):
            finish(hook(draft.job))
        return draft.new_job()

    def _place(self, new_job: NewJob, options: Options) -> Job | None:
        if options.get("sync"):
            return run_inline(self, self._runtime, new_job, options.get("conn"))
        return (self._insert([new_job], options.get("conn")))[0]

    def _insert(self, new_jobs: Sequence[NewJob], conn: Any) -> list[Job | None]:
        if not new_jobs:
            return []
        return self._runtime.perform(self._app.inserting(new_jobs, joined=conn is not None), conn)
