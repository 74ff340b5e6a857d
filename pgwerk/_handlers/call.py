"""From a claimed row to a call, and from what came of it to an outcome: what every runner of handlers does alike."""

import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pgwerk._core import registry
from pgwerk._core.claim import Claimed
from pgwerk._core.context import Context
from pgwerk._core.enqueue_options import class_name
from pgwerk._core.job import Job
from pgwerk._core.middleware import Middleware
from pgwerk._core.outcome import SUCCEEDED, Aborted, Failed, Interrupted, Outcome, Succeeded, TimedOut
from pgwerk._core.payload import Serializer, decode, encode, storable_text
from pgwerk._handlers.run import INTERRUPTIONS, Run
from pgwerk.errors import JobAborted, JobTimeout, SerializationError, WorkerShutdown

logger = logging.getLogger("pgwerk.worker")

ExceptionHandler = Callable[[Job, BaseException], Any]


@dataclass
class Hooks:
    """What runs around every handler: `before`, then the middleware with the handler inside, `on_error`, `after`."""

    before: list[Callable[[Context], Any]] = field(default_factory=list)
    after: list[Callable[[Context], Any]] = field(default_factory=list)
    on_error: list[ExceptionHandler] = field(default_factory=list)
    middleware: Sequence[Middleware] = ()
    """The app's own list: what is registered later counts from the next job on."""

    def __bool__(self) -> bool:
        return bool(self.before or self.after or self.on_error or self.middleware)


@dataclass(slots=True)
class Call:
    """A handler with what it is called with."""

    func: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    context: Context | None
    """Made when the handler or a hook asks for it."""
    wants_context: bool

    def __call__(self) -> Any:
        return self.func(*self.args, **self.kwargs)

    def about(self, ended: Job) -> None:
        """Make it the call of a callback: about the job that ended."""
        if self.context is not None:
            self.context.job = ended
        self.args = [self.context] if self.wants_context else [ended]


@dataclass
class Handlers:
    """What the runners of one worker know; shared by its threads, its loop, its processes."""

    app: Any
    worker: Any
    serializer: Serializer
    hooks: Hooks

    def prepare(self, run: Run) -> Call:
        """Find the handler of a claimed job and decode its arguments; raises what is wrong with them."""
        claimed = run.claimed
        func = registry.resolve(claimed.function)
        payload = decode(self.serializer, claimed.payload) if claimed.payload else {}
        if not isinstance(payload, dict):
            raise SerializationError('the payload is not {"args": […], "kwargs": {…}}')
        args: list[Any] = payload.get("args") or []
        kwargs: dict[str, Any] = payload.get("kwargs") or {}
        context: Context | None = None
        wants = registry.wants_context(func)
        if wants or self.hooks:
            claimed.job.payload = {**payload, "args": args, "kwargs": kwargs}
            context = self.context(run)
        if wants:
            args = [context, *args]
        return Call(func, args, kwargs, context, wants)

    def context(self, run: Run) -> Context:
        """The context of a run."""
        claimed = run.claimed
        job = claimed.job
        deadline = None
        if job.timeout_secs is not None and job.started_at is not None:
            deadline = job.started_at + timedelta(seconds=job.timeout_secs)
        return Context(
            app=self.app,
            worker=self.worker,
            job=job,
            deadline=deadline,
            log=logging.LoggerAdapter(logging.getLogger("pgwerk.job"), {"job_id": job.id, "function": job.function}),
            _report=lambda fraction, message: self.worker.report_progress(claimed, fraction, message),
            _is_stopping=lambda: self.worker.stopping or run.reason is not None,
        )

    def success(self, run: Run, result: Any) -> Outcome:
        """The outcome of a handler that returned; raises SerializationError for what cannot be stored."""
        if result is None:
            return SUCCEEDED
        return Succeeded(encode(self.serializer, result, f"the result of {run.claimed.function}"))


def failure(run: Run, error: BaseException) -> Outcome:
    """The outcome of a run that raised, or that somebody interrupted."""
    if run.reason is not None:
        return interrupted_outcome(run.reason, run.claimed, error)
    return failed(error)


def interrupted_outcome(reason: type[BaseException], claimed: Claimed, error: BaseException | None = None) -> Outcome:
    """The outcome of a run that was interrupted for *reason*; *error* shows where it was."""
    where = f"\n{storable_text(_traceback(error))}" if error is not None and error.__traceback__ is not None else ""
    if reason is JobTimeout:
        return TimedOut(f"timed out after {claimed.timeout_secs:g} s{where}")
    if reason is JobAborted:
        return Aborted()
    assert reason is WorkerShutdown
    return Interrupted(started=True)


def failed(error: BaseException) -> Failed:
    """The outcome of a run that raised."""
    kinds = tuple(class_name(kind) for kind in type(error).__mro__ if kind is not object)
    return Failed(storable_text(_traceback(error)), kinds)


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error)).rstrip()
    except INTERRUPTIONS:
        raise
    except BaseException:  # noqa: BLE001  # an exception whose own text raises is still a failed attempt
        return f"{type(error).__name__} (its message cannot be shown)"


def hook_failed(hook: Callable[..., Any], error: Exception) -> None:
    """Log what a hook raised; it changes nothing about the job."""
    logger.error("a hook failed: %s", getattr(hook, "__qualname__", hook), exc_info=error)
