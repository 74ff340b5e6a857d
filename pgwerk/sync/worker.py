"""What every synchronous worker has in common, and the worker of threads in this process."""

import contextlib
import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from pgwerk._clock import new_id
from pgwerk._core import backoff
from pgwerk._core import options as opt
from pgwerk._core.agenda import Pace
from pgwerk._core.context import Context
from pgwerk._core.job import DequeueStrategy
from pgwerk._core.ordering import encode_meta
from pgwerk._core.statements import closing
from pgwerk._core.statements.claims import Claimed
from pgwerk._version import __version__
from pgwerk.errors import ConfigError, ConnectionFailed, WerkError
from pgwerk.sync.app import Werk
from pgwerk.sync.coordinator import Coordinator
from pgwerk.sync.crew import ThreadCrew
from pgwerk.sync.identity import Identity
from pgwerk.sync.listener import Listener
from pgwerk.sync.runner import ExceptionHandler, Hooks, Runner
from pgwerk.sync.session import Session
from pgwerk.sync.slots import monotonic
from pgwerk.sync.wakeup import Wakeup

logger = logging.getLogger("pgwerk.worker")

Hook = Callable[[Context], Any]


class BaseWorker:
    """Settings, hooks and signals of a worker. Durations are seconds; None takes the app's config."""

    kind = "thread"

    def __init__(
        self,
        app: Werk,
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
    ) -> None:
        self.app = app
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
        self.hooks = Hooks(list(before_process), list(after_process))
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

    @property
    def liveness(self) -> float:
        """Seconds until this worker counts as dead when it is not heard of."""
        return self.pace.heartbeat * self.app.liveness / self.app.config.heartbeat_interval

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

        def stop(number: int, _frame: FrameType | None) -> None:
            logger.info("%s: stopping", signal.Signals(number).name)
            self.stop()

        def show(_number: int, _frame: FrameType | None) -> None:
            import faulthandler  # noqa: PLC0415  # rarely

            faulthandler.dump_traceback(all_threads=True)

        wanted: dict[signal.Signals, Any] = {signal.SIGTERM: stop, signal.SIGUSR1: show}
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            wanted[signal.SIGINT] = stop
        before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                _ = signal.signal(number, handler)


def _queues(queues: Sequence[str] | str) -> tuple[str, ...]:
    names = tuple(queues.split(",")) if isinstance(queues, str) else tuple(queues)
    names = tuple(dict.fromkeys(name.strip() for name in names))
    if not names or not all(names):
        raise ConfigError(f"queues={queues!r}: give at least one name, and no empty ones")
    return names


def _interval(name: str, value: float | None, default: float) -> float:
    return opt.seconds(name, default if value is None else value, positive=True)


class ThreadWorker(BaseWorker):
    """Run jobs in *concurrency* threads of this process."""

    def __init__(
        self, app: Werk, queues: Sequence[str] | str = ("default",), concurrency: int = 10, **settings: Any
    ) -> None:
        super().__init__(app, queues, concurrency, **settings)
        self._coordinator: Coordinator | None = None
        self._stops = 0
        self._told = 0
        self.job_limit: int | None = None
        self.parent_pipe: int | None = None
        """A pipe whose other end a supervisor holds: its end is ours."""

    def run(self) -> None:
        """Work until stopped; with burst, until nothing is queued or running."""
        with self._signals():
            self._connect_app()
            coordinator = self._coordinator = self._make_coordinator()
            for _ in range(self._stops):
                coordinator.stop()
            logger.info(
                "worker %s: %d threads, queues %s, Postgres at %s",
                self.name, self.concurrency, ", ".join(self.queues), self.app.executor.where,
            )  # fmt: skip
            try:
                coordinator.run()
            finally:
                self._coordinator = None
                self._stops = 0
            logger.info("worker %s: stopped after %d jobs", self.name, coordinator.settled)

    def _connect_app(self) -> None:
        """Connect the app, waiting for Postgres as long as it does not answer; a burst does not wait."""
        failures = 0
        while True:
            try:
                self.app.connect()
            except ConnectionFailed as error:
                if self.pace.burst:
                    raise
                failures += 1
                if failures == 1:
                    logger.warning("%s Trying again until it works.", error)
                if self._told_to_stop(backoff.reconnect(failures, random.random())):
                    raise
            else:
                if failures:
                    logger.info("Postgres at %s answers", self.app.executor.where)
                return

    def _told_to_stop(self, seconds: float) -> bool:
        """Wait before connecting again; whether somebody wants us to stop meanwhile."""
        until = monotonic() + seconds
        while monotonic() < until:
            if self._stops or (self.parent_pipe is not None and self._parent_says()):
                return True
            time.sleep(0.05)
        return False

    def _make_coordinator(self) -> Coordinator:
        wakeup = Wakeup()
        executor = self.app.executor
        runner = Runner(self.app, self, self.app.serializer, self.hooks, self.app.get_job)
        coordinator = Coordinator(
            Identity(self.id, self.name, self.queues, self.metadata()),
            Session(executor),
            Listener(executor, [self.app.names.wake_channel], self.app.listen_dsn),
            ThreadCrew(runner, self.concurrency, wakeup.wake),
            wakeup,
            self.pace,
            self.strategy,
            self.liveness,
            self.app.config.max_active_secs,
        )
        coordinator.job_limit = self.job_limit
        if self.parent_pipe is not None:
            coordinator.replaceable = True
            coordinator.listen_to = self.parent_pipe
            coordinator.parent_says = self._parent_says
        return coordinator

    def _parent_says(self) -> int:
        """How often the supervisor has told us to stop; its end of the pipe closed counts once. Never blocks."""
        assert self.parent_pipe is not None
        try:
            said = os.read(self.parent_pipe, 64)
        except BlockingIOError:
            return self._told
        if not said:
            if not self._told:
                logger.warning("the supervisor is gone: stopping")
            if self._coordinator is not None:
                # At its end a pipe can always be read: nothing more to wait for.
                self._coordinator.listen_to = -1
        self._told = max(self._told, 2 if b"g" in said else 1)
        return self._told

    def stop(self) -> None:
        """Ask the worker to finish what runs and end; asked again, to give it back. From any thread."""
        coordinator = self._coordinator
        if coordinator is not None:
            coordinator.stop()
        else:
            self._stops += 1

    @property
    def stopping(self) -> bool:
        """Whether the worker is on its way out."""
        return self._coordinator is not None and self._coordinator.stopping

    def report_progress(self, claimed: Claimed, fraction: float, message: str | None) -> None:
        """Store the progress of a running job."""
        value = encode_meta({"fraction": fraction, "message": message})
        try:
            _ = self.app.executor.run(closing.progress(claimed.job.id, claimed.claim, value))
        except WerkError as error:
            logger.warning("the progress of job %s was not stored: %s", claimed.job.id, error)
