"""Running one handler in this thread: from a claimed row to an outcome. Nothing a handler does gets past it."""

import contextvars
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pgwerk._core.context import Context
from pgwerk._core.job import Job
from pgwerk._core.middleware import Link, compose
from pgwerk._core.outcome import Outcome
from pgwerk._handlers import forked
from pgwerk._handlers.call import Call, Handlers, failure, hook_failed
from pgwerk._handlers.forked import EndOfForks
from pgwerk._handlers.run import INTERRUPTIONS, Run, set_current_run
from pgwerk._handlers.thread_loop import ThreadBridge, finish


@dataclass
class Runner(Handlers):
    """Runs handlers for one worker; shared by its threads."""

    load_job: Callable[[str], Job]
    """Reads the ended job of a callback."""
    forks: EndOfForks = field(default_factory=EndOfForks)

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
            # Not by calling `call`, nor in a `with`: each would be steps more for each job.
            value = finish(call.func(*call.args, **call.kwargs))
        except BaseException as error:
            if forked.generation != self.forks.generation:
                forked.end_of_fork(error)
            raise
        if forked.generation != self.forks.generation:
            forked.end_of_fork(None)
        return value

    async def _await(self, call: Call) -> Any:
        """Call a handler that is a coroutine function, inside of asynchronous middleware; else like `_handle`."""
        with self.forks:
            return await call()

    def _inside(self, call: Call, context: Context) -> Any:
        """Call the handler inside of the middleware."""
        if not self.hooks.middleware:
            return self._handle(call)
        if inspect.iscoroutinefunction(call.func):
            handler = Link(partial(self._await, call), awaited=True)
        else:
            handler = Link(partial(self._handle, call), awaited=False)
        bridge = ThreadBridge()
        link = compose(self.hooks.middleware, context, handler, bridge)
        with self.forks:
            return (bridge.blocking(link.call) if link.awaited else link.call)()

    def _hooked(self, call: Call, context: Context) -> Any:
        try:
            for hook in self.hooks.before:
                _ = finish(hook(context))
            return self._inside(call, context)
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
