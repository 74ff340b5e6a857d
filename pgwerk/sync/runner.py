"""Running one handler in this thread: from a claimed row to an outcome. Nothing a handler does gets past it."""

import asyncio
import contextvars
import inspect
import logging
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from pgwerk._core import registry
from pgwerk._core.context import Context
from pgwerk._core.job import Job
from pgwerk._core.ordering import class_name
from pgwerk._core.outcome import Aborted, Failed, Interrupted, Outcome, Succeeded, TimedOut
from pgwerk._core.payload import Serializer, decode, encode, storable_text
from pgwerk._core.statements.claims import Claimed
from pgwerk.errors import JobAborted, JobTimeout, SerializationError, WorkerShutdown
from pgwerk.sync.slots import INTERRUPTIONS, Run, current_run, set_current_run

logger = logging.getLogger("pgwerk.worker")

ExceptionHandler = Callable[[Job, BaseException], Any]


class WorkerView(Protocol):
    """What a runner needs to know about its worker."""

    @property
    def stopping(self) -> bool:
        """Whether the worker is on its way out."""
        ...

    def report_progress(self, claimed: Claimed, fraction: float, message: str | None) -> None:
        """Store the progress of a running job."""
        ...


@dataclass
class Hooks:
    """What runs around every handler."""

    before: list[Callable[[Context], Any]] = field(default_factory=list)
    after: list[Callable[[Context], Any]] = field(default_factory=list)
    on_error: list[ExceptionHandler] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.before or self.after or self.on_error)


@dataclass
class Runner:
    """Runs handlers for one worker; shared by its threads."""

    app: Any
    worker: Any
    serializer: Serializer
    hooks: Hooks
    load_job: Callable[[str], Job]
    """Reads the ended job of a callback."""

    def run(self, run: Run) -> Outcome:
        """Run the handler of a claimed job and say what happened."""
        outer = current_run()  # a job that runs another in place
        set_current_run(run)
        try:
            outcome = contextvars.copy_context().run(self._guarded, run)
        finally:
            set_current_run(outer)
        return outcome

    def _guarded(self, run: Run) -> Outcome:
        # The second try is for an interruption that arrives between the handler's end and close().
        outcome: Outcome | None = None
        try:
            run.open = True
            try:
                outcome = self._call(run)
            except BaseException as error:  # noqa: BLE001  # SystemExit in a handler is a failed attempt, too
                outcome = self._failure(run, error)
            run.close()
        except INTERRUPTIONS as error:
            run.close()
            outcome = outcome or self._failure(run, error)
        return outcome

    def _call(self, run: Run) -> Outcome:
        claimed = run.claimed
        job = claimed.job
        func = registry.resolve(job.function)
        payload = decode(self.serializer, claimed.payload) if claimed.payload else {}
        if not isinstance(payload, dict):
            raise SerializationError('the payload is not {"args": […], "kwargs": {…}}')
        args: list[Any] = payload.get("args") or []
        kwargs: dict[str, Any] = payload.get("kwargs") or {}
        context: Context | None = None
        wants = registry.wants_context(func)
        if wants or self.hooks:
            job.payload = payload
            context = self.context(run)
        if job.callback_of is not None:
            ended = self.load_job(job.callback_of)
            if context is not None:
                context.job = ended
            args = [] if wants else [ended]
        if wants:
            args = [context, *args]
        if not self.hooks:
            result = func(*args, **kwargs)
            if inspect.iscoroutine(result):
                result = run_coroutine(result)
        else:
            assert context is not None
            result = self._hooked(context, func, args, kwargs)
        if result is None:
            return Succeeded()
        return Succeeded(encode(self.serializer, result, f"the result of {job.function}"))

    def _hooked(self, context: Context, func: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        try:
            for hook in self.hooks.before:
                _ = finish(hook(context))
            return finish(func(*args, **kwargs))
        except BaseException as error:
            context.exception = error
            for handler in reversed(self.hooks.on_error):
                self._harmless(handler, context.job, error)
            raise
        finally:
            for hook in self.hooks.after:
                self._harmless(hook, context)

    @staticmethod
    def _harmless(hook: Callable[..., Any], *args: Any) -> None:
        """Call a hook whose own error must not change what happened to the job."""
        try:
            _ = finish(hook(*args))
        except INTERRUPTIONS:
            raise
        except Exception:
            logger.exception("a hook failed: %s", getattr(hook, "__qualname__", hook))

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

    def _failure(self, run: Run, error: BaseException) -> Outcome:
        if run.reason is not None:
            return interrupted_outcome(run.reason, run.claimed, error)
        return failed(error)


def interrupted_outcome(reason: type[BaseException], claimed: Claimed, error: BaseException | None = None) -> Outcome:
    """The outcome of a run that was interrupted for *reason*; *error* shows where it was."""
    where = f"\n{storable_text(_traceback(error))}" if error is not None and error.__traceback__ is not None else ""
    if reason is JobTimeout:
        return TimedOut(f"timed out after {claimed.job.timeout_secs:g} s{where}")
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


_loops = threading.local()


def run_coroutine(coroutine: Any) -> Any:
    """Run a coroutine to its end on this thread's own loop, made at first use."""
    runner: asyncio.Runner | None = getattr(_loops, "runner", None)
    if runner is None:
        runner = _loops.runner = asyncio.Runner()
    try:
        return runner.run(coroutine)
    except BaseException:
        # A loop that was interrupted is not used again.
        close_loop()
        raise


def close_loop() -> None:
    """Close this thread's loop, if it made one."""
    runner: asyncio.Runner | None = getattr(_loops, "runner", None)
    if runner is not None:
        _loops.runner = None
        try:
            runner.close()
        except Exception:
            logger.exception("closing the loop of a handler failed")


def finish(value: Any) -> Any:
    """Run *value* to its end if it is a coroutine, else return it."""
    return run_coroutine(value) if inspect.iscoroutine(value) else value
