"""The default worker: a parent that forks thread workers, replaces the dead and never talks to Postgres itself."""

import contextlib
import gc
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from pgwerk._app.clock import new_id
from pgwerk._core import options as opt
from pgwerk._core.supervision import Command, Supervision
from pgwerk._handlers.run import monotonic
from pgwerk.errors import WerkError
from pgwerk.workers.base import BaseWorker, WorkerSettings
from pgwerk.workers.coordinating.wakeup import Wakeup
from pgwerk.workers.forking import signals
from pgwerk.workers.reporting.report import Reporter
from pgwerk.workers.reporting.unblocked import unblocked
from pgwerk.workers.supervising import child as children
from pgwerk.workers.supervising.begun import BegunJobs
from pgwerk.workers.supervising.child import ChildSettings, run_child
from pgwerk.workers.supervising.forkcheck import warn_about_imports
from pgwerk.workers.supervising.handle import ChildHandle, open_pidfd
from pgwerk.workers.supervising.helpers import HelperProcesses
from pgwerk.workers.supervising.watchdog import Watchdog

logger = logging.getLogger("pgwerk.worker")

RSS_INTERVAL = 2.0
"""Seconds between looks at how much memory the children use."""


class Worker(BaseWorker):
    """Run jobs in threads of *processes* child processes (default: one for each CPU).

    *concurrency* is the total, divided over the children. A child is replaced when it dies, after *max_jobs* jobs,
    or when it uses more than *max_rss* (bytes, or text like "600M"); its jobs are finished or given back first.
    Jobs of a dead child are queued again at once. The app is imported before the fork: what it opens at import
    (threads, connections) does not survive it.
    """

    forks = True

    kind = "prefork"

    def __init__(
        self,
        app: Any,
        queues: Sequence[str] | str = ("default",),
        concurrency: int = 10,
        *,
        processes: int | None = None,
        max_jobs: int | None = None,
        max_rss: int | str | None = None,
        **settings: Unpack[WorkerSettings],
    ) -> None:
        super().__init__(app, queues, concurrency, **settings)
        wanted = os.cpu_count() or 1 if processes is None else opt.whole("processes", processes, 1, 1000)
        self.processes = min(wanted, self.concurrency) if processes is None else wanted
        self.max_jobs = None if max_jobs is None else opt.whole("max_jobs", max_jobs, 1, 2**31)
        self.max_rss = None if max_rss is None else byte_size(max_rss)
        self._children: dict[int, ChildHandle] = {}
        self._begun: list[BegunJobs] = []
        """By slot: what the child of it shows."""
        self._wakeup: Wakeup | None = None
        self._stops = 0
        self._restarts = 0
        self._looks = 0
        """Number of stack dumps requested (SIGUSR1)."""
        self._unusable = False

    def run(self) -> None:
        """Work until stopped; with burst, until nothing is queued or running.

        Raises WerkError when the children find that they cannot work (tables missing, a wrong setting).
        """
        with unblocked() as self._log:
            self._run()

    def _run(self) -> None:
        wakeup = self._wakeup = Wakeup()
        self._supervision = Supervision(self.processes, self.pace.shutdown, burst=self.pace.burst)
        self._helpers = HelperProcesses(self.werk, self._pipes)
        reporter = Reporter(self.health_file, self.pace.heartbeat)
        self._watch = Watchdog(self.processes, self.pace, self.liveness, self._helpers, reporter)
        self._begun = [BegunJobs(self._threads) for _ in range(self.processes)]
        reporter.start()
        try:
            with self._signals():
                warn_about_imports()
                # What is alive now is shared with the children as long as nobody writes to it.
                _ = gc.collect()
                gc.freeze()
                logger.info(
                    "supervisor %s: %d processes, %d threads each, queues %s",
                    os.getpid(), self.processes, self._threads, ", ".join(self.queues),
                )  # fmt: skip
                self._supervise()
        finally:
            self._helpers.finish(wakeup.wait)
            gc.unfreeze()
            self._wakeup.close()
            self._wakeup = None
            self._stops = 0
        logger.info("supervisor %s: stopped", os.getpid())
        if self._unusable:
            raise WerkError("worker exited: its child processes cannot start (see the error logged above)")
        reporter.end("stopped")

    def stop(self) -> None:
        """Ask the children to finish what runs and end; asked again, to give it back. From any thread."""
        self._stops += 1
        self._wake()

    @property
    def running_jobs(self) -> int:
        """How many jobs the children hold, as they said last."""
        return self._watch.held if self._wakeup is not None else 0

    def restart(self) -> None:
        """Replace every child, one after the other, without dropping a job. From any thread."""
        self._restarts += 1
        self._wake()

    def _show_stacks(self) -> None:
        self._looks += 1
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.force()

    @property
    def _threads(self) -> int:
        return -(-self.concurrency // self.processes)

    def _pipes(self) -> list[int]:
        """Our ends of the children's pipes, which no other child may keep open."""
        return [process.pipe for process in self._children.values()]

    def _more_signals(self) -> Mapping[signal.Signals, Callable[[], None]]:
        return {signal.SIGHUP: self.restart, signal.SIGUSR1: self._show_stacks}

    # The loop ---------------------------------------------------------------------

    def _supervise(self) -> None:
        supervision = self._supervision
        seen_stops = seen_restarts = seen_looks = 0
        try:
            while True:
                while seen_stops < self._stops:
                    seen_stops += 1
                    supervision.stop(monotonic())
                while seen_restarts < self._restarts:
                    seen_restarts += 1
                    logger.info("replacing %d children one by one", len(self._children))
                    supervision.restart()
                while seen_looks < self._looks:
                    seen_looks += 1
                    for process in self._children.values():
                        process.signal(signal.SIGUSR1)
                self._log.tell()
                self._reap()
                plan = supervision.plan(monotonic())
                for pid, command in plan.commands:
                    self._tell(pid, command)
                if plan.finished:
                    break
                for slot in plan.spawn:
                    self._spawn(slot)
                if not plan.spawn:
                    self._wait(min(plan.wait, self._watch.look(self._children.values(), stopping=seen_stops > 0)))
        finally:
            self._kill_all()

    def _wait(self, seconds: float) -> None:
        assert self._wakeup is not None
        if self.max_rss is not None:
            self._check_memory()
            seconds = min(seconds, RSS_INTERVAL)
        fds = [process.pidfd for process in self._children.values()]
        if -1 in fds:  # no pidfd on this system
            seconds = min(seconds, 0.1)
        _ = self._wakeup.wait(min(seconds, 60.0), *fds)

    def _spawn(self, slot: int) -> None:
        """Start a child, or put that off when it cannot be done now, which costs the living nothing."""
        worker_id = new_id()
        self._begun[slot].clear()
        settings = ChildSettings(
            worker_id=worker_id,
            threads=self._threads,
            queues=self.queues,
            pace=self.pace,
            strategy=self.strategy,
            hooks=self.hooks,
            max_jobs=self.max_jobs,
            vitals=self._watch.started(slot),
            begun=self._begun[slot],
            ours=self._pipes(),
        )
        children.flush()
        try:
            read, write = os.pipe()
        except OSError as error:
            self._not_spawned(slot, error)
            return
        try:
            pid = signals.fork()
        except OSError as error:
            os.close(read)
            os.close(write)
            self._not_spawned(slot, error)
            return
        if pid == 0:
            os.close(write)
            run_child(self.app, settings, read)
        os.close(read)
        self._children[pid] = ChildHandle(pid, worker_id, slot, write, open_pidfd(pid))
        self._supervision.spawned(slot, pid, monotonic())
        logger.debug("started child %d", pid)

    def _not_spawned(self, slot: int, error: OSError) -> None:
        pause = self._supervision.not_spawned(slot, monotonic())
        self._watch.ended(slot, for_good=False)
        logger.error("could not start a child (%s); retrying in %.1f s", error.strerror or error, pause)

    def _reap(self) -> None:
        for process in list(self._children.values()):
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                self._ended(process, status)
        self._watch.reap()

    def _ended(self, process: ChildHandle, status: int) -> None:
        del self._children[process.pid]
        process.close()
        code = os.waitstatus_to_exitcode(status)
        begun = self._begun[process.slot].read(monotonic())
        # What a child says by its exit code counts when no handler can have said it.
        said = code if begun == {} else None
        if said == children.UNUSABLE:
            self._unusable = True
            self._stops = max(self._stops, 1)
        pause = self._supervision.exited(process.pid, monotonic(), clean=said == 0)
        self._watch.ended(process.slot, for_good=pause is None)
        if said in (0, children.UNUSABLE):
            return
        reason = (
            f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process exited with {code}"
        )
        if process.doom is not None:
            reason += f": {process.doom}"
        again = "" if pause is None else f"; starting another{f' in {pause:.1f} s' if pause else ''}"
        logger.error("child %d died (%s): its jobs are queued again%s", process.pid, reason, again)
        # By a process of its own: the parent has no connection.
        self._helpers.report(process.worker_id, reason, begun)

    def _tell(self, pid: int, command: Command) -> None:
        process = self._children.get(pid)
        if process is None:
            return
        if command is Command.KILL:
            logger.error("child %d did not exit in time: killing it", pid)
            process.signal(signal.SIGKILL)
            return
        stop = children.TOO_LARGE if process.too_large else children.STOP
        process.tell(stop if command is Command.STOP else children.GIVE_BACK)

    def _check_memory(self) -> None:
        assert self.max_rss is not None
        for pid in list(self._children):
            used = children.resident_bytes(pid)
            if used is not None and used > self.max_rss and self._supervision.recycle(pid, monotonic()):
                self._children[pid].too_large = True
                logger.info("child %d uses %d MB: replacing it", pid, used // 2**20)

    def _kill_all(self) -> None:
        """Leave no child behind when the loop ends by an error."""
        for process in list(self._children.values()):
            process.signal(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                _, status = os.waitpid(process.pid, 0)
                self._ended(process, status)


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def byte_size(value: int | str) -> int:
    """Read a number of bytes, or text like "600M"; raises ValueError."""
    if isinstance(value, str):
        text = value.strip().upper().removesuffix("B").removesuffix("I")
        unit = text[-1:] if text[-1:] in ("K", "M", "G") else ""
        number = text.removesuffix(unit)
        if not number.isdecimal():
            raise ValueError(f"max_rss={value!r}: it must be a number of bytes, or like '600M' or '1G'")
        value = int(number) * _UNITS[unit]
    return opt.whole("max_rss", value, 2**20, 2**50)
