"""A worker with one coordinator and one crew, in this process."""

import contextlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

from pgwerk._core import backoff
from pgwerk._core.child_liveness import LATE
from pgwerk._core.claim import Claimed
from pgwerk._core.enqueue_options import encode_meta
from pgwerk._core.statements import running
from pgwerk._handlers.forked import end_of_fork
from pgwerk._handlers.run import monotonic
from pgwerk.errors import ConnectionFailed, WerkError
from pgwerk.workers.base import BaseWorker, WorkerSettings
from pgwerk.workers.coordinating.coordinator import Coordinator
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.coordinating.wakeup import Wakeup
from pgwerk.workers.crews.base import Crew
from pgwerk.workers.reporting.endings import count
from pgwerk.workers.reporting.log_writer import handed_over
from pgwerk.workers.reporting.report import Condition, Reporter, in_words
from pgwerk.workers.supervising.begun import BegunJobs
from pgwerk.workers.supervising.shared_heartbeats import SharedHeartbeats, every

logger = logging.getLogger("pgwerk.worker")

PULSE_SECONDS = 1.0
"""Seconds between two signs of life for a supervisor, at most."""


class CrewWorker(BaseWorker):
    """Everything but the crew; kinds of workers differ in theirs."""

    unit = ""
    """What the crew consists of, for the log."""

    def __init__(
        self,
        app: Any,
        queues: Sequence[str] | str = ("default",),
        concurrency: int = 10,
        **settings: Unpack[WorkerSettings],
    ) -> None:
        super().__init__(app, queues, concurrency, **settings)
        self._coordinator: Coordinator | None = None
        self._runs: Crew | None = None
        self._stops = 0
        self._told = 0
        self.job_limit: int | None = None
        self.parent_pipe: int | None = None
        """A pipe whose other end a supervisor holds: its end is ours."""
        self.begun: BegunJobs | None = None
        """Where a supervisor looks for what had begun, if we die."""
        self.vitals: SharedHeartbeats | None = None
        """Where a supervisor looks for signs of life; it then also reports for us."""

    def _crew(self, wake: Callable[[], None]) -> Crew:
        """Make the crew."""
        raise NotImplementedError

    def run(self) -> None:
        """Work until stopped; with burst, until nothing is queued or running."""
        with handed_over(), self._signals(), self._shown():
            self._connect_app()
            coordinator = self._coordinator = self._make_coordinator()
            for _ in range(self._stops):
                coordinator.stop()
            logger.info(
                "worker %s: %d %s, queues %s, Postgres at %s",
                self.name, self.concurrency, self.unit, ", ".join(self.queues), self.runtime.backend.where,
            )  # fmt: skip
            try:
                coordinator.run()
            finally:
                if self.vitals is not None:
                    self._pulse()
                self._coordinator = self._runs = None
                self._stops = 0
            given_back = coordinator.outcomes.interrupted
            more = f", gave back {count(given_back, 'running job')}" if given_back else ""
            logger.info("worker %s: stopped after %s%s", self.name, count(coordinator.figures[0], "job"), more)

    @contextlib.contextmanager
    def _shown(self) -> Iterator[None]:
        """Show how the worker fares as long as it runs: to its supervisor, or to whoever else wants to know."""
        heartbeat = self.pace.heartbeat
        if self.vitals is not None:
            with every(min(PULSE_SECONDS, heartbeat / 8), self._pulse):
                yield
            return
        reporter = Reporter(self.health_file, heartbeat)
        if not reporter.wanted:
            yield
            return
        reporter.start()
        with every(reporter.between, lambda: reporter.report(self._condition(), monotonic())):
            yield
        reporter.end("stopped")

    def _pulse(self) -> None:
        assert self.vitals is not None
        coordinator = self._coordinator
        if coordinator is not None:
            self.vitals.figures = coordinator.figures
        self.vitals.pulse(monotonic())

    def _condition(self) -> Condition:
        coordinator = self._coordinator
        beaten = coordinator.vitals.beaten if coordinator is not None else None
        if coordinator is None or beaten is None:
            said = f"not connected to Postgres at {self.runtime.backend.where}"
            return Condition(False, False, self._stops > 0, said)
        well = monotonic() - beaten <= LATE * self.pace.heartbeat
        status = in_words(*coordinator.figures)
        return Condition(True, well, coordinator.stopping, status if well else f"{status}; no heartbeat arrived lately")

    def _connect_app(self) -> None:
        """Connect the app, waiting for Postgres as long as it does not answer; a burst does not wait."""
        failures, pid = 0, os.getpid()
        while True:
            try:
                self._start_app()
                if os.getpid() != pid:
                    # A startup hook forked, and this is its child: not a second worker.
                    end_of_fork(None)
            except ConnectionFailed as error:
                if self.pace.burst:
                    raise
                failures += 1
                if failures == 1:
                    logger.warning("%s Retrying until it works.", error)
                if self._told_to_stop(backoff.reconnect(failures, random.random())):
                    raise
            else:
                if failures:
                    logger.info("Postgres at %s answers", self.runtime.backend.where)
                # A worker has connections of its own; those of the app are for handlers that want some.
                self.runtime.backend.drop_idle()
                return

    def _start_app(self) -> None:
        """Check the tables and run startup hooks where handlers will run."""
        # Not `self.app`: an asyncio app would leave a pool on a loop that nobody closes.
        self.werk.connect()

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
        crew = self._runs = self._crew(wakeup.wake)
        coordinator = Coordinator(
            Identity(self.id, self.name, self.queues, self.metadata()),
            self.runtime.backend.worker_connection(),
            self.runtime.backend.worker_listener(),
            crew,
            wakeup,
            self.pace,
            self.strategy,
            self.liveness,
            self.werk.config.max_active_secs,
            self.werk.config.max_lost,
        )
        crew.begun = coordinator.outcomes.begun = self.begun
        coordinator.stops.job_limit = self.job_limit
        coordinator.vitals = self.vitals or coordinator.vitals
        if self.parent_pipe is not None:
            coordinator.stops.replaceable = True
            coordinator.rest.listen_to = self.parent_pipe
            coordinator.stops.parent_says = self._parent_says
        return coordinator

    def _parent_says(self) -> int:
        """How many stops the supervisor has requested; its disappearance counts as one. Never blocks."""
        assert self.parent_pipe is not None
        try:
            said = os.read(self.parent_pipe, 64)
        except BlockingIOError:
            return self._told
        if not said:
            if not self._told:
                logger.warning("the supervisor is gone: stopping")
            if self._coordinator is not None:
                self._coordinator.outcomes.blame = "its supervisor died"
                # At its end a pipe can always be read: nothing more to wait for.
                self._coordinator.rest.listen_to = -1
        if b"m" in said and self._coordinator is not None:
            self._coordinator.outcomes.blame = "its process used too much memory, and was replaced before the job ended"
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
    def running_jobs(self) -> int:
        """How many jobs run now."""
        return len(self._runs.running()) if self._runs is not None else 0

    @property
    def stopping(self) -> bool:
        """Whether the worker is on its way out."""
        return self._coordinator is not None and self._coordinator.stopping

    def report_progress(self, claimed: Claimed, fraction: float, message: str | None) -> None:
        """Store the progress of a running job."""
        value = encode_meta({"fraction": fraction, "message": message})
        try:
            _ = self.runtime.backend.run(running.progress(claimed.id, claimed.claim, value))
        except WerkError as error:
            logger.warning("could not store the progress of job %s: %s", claimed.id, error)
