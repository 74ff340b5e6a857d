"""What every worker has in common: settings, hooks, signals."""

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, TypedDict

from pgwerk._app.clock import new_id
from pgwerk._app.ports import Place
from pgwerk._core import options as opt
from pgwerk._core.agenda import Pace
from pgwerk._core.context import Context
from pgwerk._core.job import DequeueStrategy
from pgwerk._handlers.call import ExceptionHandler, Hooks
from pgwerk._version import __version__
from pgwerk.errors import ConfigError
from pgwerk.sync.app import Werk
from pgwerk.sync.backend import kind_of
from pgwerk.sync.runtime import runtime_of
from pgwerk.workers.forking import signals
from pgwerk.workers.reporting.endings import stopping
from pgwerk.workers.reporting.log_writer import steady
from pgwerk.workers.reporting.standard_streams import open_standard_streams

logger = logging.getLogger("pgwerk.worker")

Hook = Callable[[Context], Any]


class WorkerSettings(TypedDict, total=False):
    """The settings that all workers take, for type checkers and editors: `BaseWorker` says what they are by default."""

    heartbeat_interval: float | None
    poll_interval: float | None
    dequeue_strategy: DequeueStrategy
    burst: bool
    before_process: Sequence[Hook]
    after_process: Sequence[Hook]
    sweep_interval: float | None
    abort_interval: float | None
    shutdown_timeout: float | None
    health_file: "str | os.PathLike[str] | None"


class BaseWorker:
    """Settings, hooks and signals of a worker. Durations are seconds; None takes the app's config."""

    kind = ""
    """What the worker's row says about its type."""
    forks = False
    """Whether its handlers run in processes that it forks."""

    def __init__(
        self,
        app: Any,
        queues: Sequence[str] | str = ("default",),
        concurrency: int = 10,
        *,
        heartbeat_interval: float | None = None,
        poll_interval: float | None = None,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.Priority,
        burst: bool = False,
        before_process: Sequence[Hook] = (),
        after_process: Sequence[Hook] = (),
        sweep_interval: float | None = None,
        abort_interval: float | None = None,
        shutdown_timeout: float | None = None,
        health_file: "str | os.PathLike[str] | None" = None,
    ) -> None:
        steady()
        open_standard_streams()
        self.app = app
        self.werk: Werk = app.sync
        """The app as the worker itself uses it; handlers get it as it was given."""
        self.runtime = runtime_of(self.werk)
        if self.forks and self.runtime.app.place is Place.MEMORY:
            raise ConfigError(
                f"{type(self).__name__} forks processes, which do not see the jobs of memory://: use ThreadWorker or "
                'AsyncWorker, or Postgres (Werk("embedded://") needs no set-up).'
            )
        # Now, rather than in each process that is forked.
        _ = kind_of(self.runtime.app)
        self.queues = _queues(queues)
        self.concurrency = opt.whole("concurrency", concurrency, 1, 10_000)
        config = app.config
        self.pace = Pace(
            concurrency=self.concurrency,
            heartbeat=_interval("heartbeat_interval", heartbeat_interval, config.heartbeat_interval),
            poll=_interval("poll_interval", poll_interval, config.poll_interval),
            sweep=_interval("sweep_interval", sweep_interval, config.sweep_interval),
            abort=_interval("abort_interval", abort_interval, config.abort_interval),
            shutdown=config.shutdown_timeout
            if shutdown_timeout is None
            else opt.seconds("shutdown_timeout", shutdown_timeout),
            burst=burst,
        )
        self.strategy = DequeueStrategy(dequeue_strategy)
        self.health_file = health_file
        self.hooks = Hooks(list(before_process), list(after_process), middleware=self.runtime.app.middleware)
        self._signalled = 0
        self.id = new_id()
        self.name = f"{socket.gethostname()}.{os.getpid()}"

    # Hooks ------------------------------------------------------------------------

    def add_before_process(self, hook: Hook) -> None:
        """Call *hook* with the `Context` before each job."""
        self.hooks.before.append(hook)

    def add_after_process(self, hook: Hook) -> None:
        """Call *hook* with the `Context` after each job; `ctx.exception` is what the handler raised."""
        self.hooks.after.append(hook)

    def push_exception_handler(self, handler: ExceptionHandler) -> None:
        """Call *handler* with the job and the exception when a handler raises; the last pushed is called first."""
        self.hooks.on_error.append(handler)

    def pop_exception_handler(self) -> ExceptionHandler:
        """Take the last exception handler away and return it; raises IndexError when there is none."""
        return self.hooks.on_error.pop()

    # Running ----------------------------------------------------------------------

    def run(self) -> None:
        """Work until stopped; with burst, until nothing is queued or running."""
        raise NotImplementedError

    def stop(self) -> None:
        """Ask the worker to finish what runs and end; asked again, to give it back. From any thread."""
        raise NotImplementedError

    def stop_at(self, number: signal.Signals) -> None:
        """Stop because of a signal: the log says what that means for the jobs that run."""
        self._signalled += 1
        logger.info("%s", stopping(number.name, self._signalled, self.running_jobs, self.pace.shutdown))
        self.stop()

    @property
    def running_jobs(self) -> int:
        """How many jobs run now, as far as this process knows."""
        raise NotImplementedError

    @property
    def liveness(self) -> float:
        """Seconds without a heartbeat until this worker counts as dead."""
        return self.pace.heartbeat * self.runtime.app.liveness / self.werk.config.heartbeat_interval

    def metadata(self) -> dict[str, Any]:
        """What the worker's row says about it."""
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "concurrency": self.concurrency,
            "queues": list(self.queues),
            "strategy": self.strategy.value,
            "worker_type": self.kind,
            "version": __version__,
        }

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop on TERM and INT, show stacks on USR1; only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        self._signalled = 0

        def stop(number: int, _frame: FrameType | None) -> None:
            self.stop_at(signal.Signals(number))

        wanted: dict[signal.Signals, Any] = {signal.SIGTERM: stop}
        for number, act in self._more_signals().items():
            wanted[number] = lambda _number, _frame, act=act: act()
        if signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, signals.ignore):
            wanted[signal.SIGINT] = stop
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            # How a child ended would not be told to anybody.
            wanted[signal.SIGCHLD] = signal.SIG_DFL
        before: dict[int, Any] = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        signals.handled(before)
        # In C, so that it also shows a handler that holds the interpreter lock.
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=signal.SIGUSR1 in wanted)
        try:
            yield
        finally:
            faulthandler.unregister(signal.SIGUSR1)
            signals.not_handled(before)
            for handled, handler in before.items():
                _ = signal.signal(handled, handler)

    def _more_signals(self) -> Mapping[signal.Signals, Callable[[], None]]:
        """What else to do at which signal."""
        return {}


def _queues(queues: Sequence[str] | str) -> tuple[str, ...]:
    names = tuple(queues.split(",")) if isinstance(queues, str) else tuple(queues)
    names = tuple(dict.fromkeys(name.strip() for name in names))
    if not names or not all(names):
        raise ConfigError(f"queues={queues!r}: give at least one name, and no empty ones")
    return names


def _interval(name: str, value: float | None, default: float) -> float:
    return opt.seconds(name, default if value is None else value, positive=True)
