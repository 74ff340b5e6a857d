"""Running one handler in this thread: from a claimed row to an outcome. Nothing a handler does gets past it."""

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pgwerk._core.context import Context
from pgwerk._core.job import Job
from pgwerk._core.outcome import Outcome
from pgwerk._handlers import forked
from pgwerk._handlers.call import Call, Handlers, failure, hook_failed
from pgwerk._handlers.run import INTERRUPTIONS, Run, set_current_run

logger = logging.getLogger("pgwerk.worker")


@dataclass
class Runner(Handlers):
    """Runs handlers for one worker; shared by its threads."""

    load_job: Callable[[str], Job]
    """Reads the ended job of a callback."""
    generation: int = field(default_factory=lambda: forked.generation)

    def run(self, run: Run) -> Outcome:
        """Run the handler of a claimed job and say what happened."""
        # A context of its own: what a handler sets there, and which run is the current one, ends with it.
        return contextvars.copy_context().run(self._guarded, run)

    def _guarded(self, run: Run) -> Outcome:
        set_current_run(run)
        # The second try is for an interruption that arrives between the handler's end and close().
        outcome: Outcome | None = None
        try:
            run.open = True
            try:
                outcome = self.success(run, self._call(run))
            except BaseException as error:  # noqa: BLE001  # SystemExit in a handler is a failed attempt, too
                outcome = failure(run, error)
            run.close()
        except INTERRUPTIONS as error:
            run.close()
            outcome = outcome or failure(run, error)
        return outcome

    def _call(self, run: Run) -> Any:
        call = self.prepare(run)
        ended = run.claimed.callback_of
        if ended is not None:
            call.about(self.load_job(ended))
        if call.context is not None and self.hooks:
            return self._hooked(call, call.context)
        return self._handle(call)

    def _handle(self, call: Call) -> Any:
        """Call the handler. A process that it forked, and that comes back as well, ends here."""
        try:
            value = finish(call.func(*call.args, **call.kwargs))
        except BaseException as error:
            if forked.generation != self.generation:
                forked.end_of_fork(error)
            raise
        if forked.generation != self.generation:
            forked.end_of_fork(None)
        return value

    def _hooked(self, call: Call, context: Context) -> Any:
        try:
            for hook in self.hooks.before:
                _ = finish(hook(context))
            return self._handle(call)
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
        except Exception as error:  # noqa: BLE001  # logged
            hook_failed(hook, error)


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
    return run_coroutine(value) if value is not None and inspect.iscoroutine(value) else value
