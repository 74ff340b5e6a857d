"""The default worker: a parent that forks thread workers, replaces the dead and never talks to Postgres itself."""

import contextlib
import gc
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from pgwerk._clock import new_id
from pgwerk._core import options as opt
from pgwerk._core.supervision import Order, Supervision
from pgwerk._runs import monotonic
from pgwerk.errors import WerkError
from pgwerk.workers import child as children
from pgwerk.workers.base import BaseWorker
from pgwerk.workers.child import ChildSettings, run_child, run_undertaker
from pgwerk.workers.wakeup import Wakeup

logger = logging.getLogger("pgwerk.worker")

RSS_INTERVAL = 2.0
"""Seconds between looks at how much memory the children use."""
UNDERTAKER_SECONDS = 5.0
"""How long a parent that ends waits for the jobs of dead children to be reported."""


@dataclass
class _Process:
    """A child process as the parent holds it."""

    pid: int
    worker_id: str
    pipe: int
    """Our end: what is written is an order, and its closing says that we are gone."""
    pidfd: int


class Worker(BaseWorker):
    """Run jobs in threads of *processes* child processes (default: one for each CPU).

    *concurrency* is the total, divided over the children. A child is replaced when it dies, after *max_jobs* jobs,
    or when it uses more than *max_rss* (bytes, or text like "600M"); its jobs are finished or given back first.
    Jobs of a dead child are queued again at once. The app is imported before the fork: what it opens at import
    (threads, connections) does not survive it.
    """

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
        **settings: Any,
    ) -> None:
        super().__init__(app, queues, concurrency, **settings)
        wanted = os.cpu_count() or 1 if processes is None else opt.whole("processes", processes, 1, 1000)
        self.processes = min(wanted, self.concurrency) if processes is None else wanted
        self.max_jobs = None if max_jobs is None else opt.whole("max_jobs", max_jobs, 1, 2**31)
        self.max_rss = None if max_rss is None else byte_size(max_rss)
        self._supervision = Supervision(self.processes, self.pace.shutdown, burst=self.pace.burst)
        self._children: dict[int, _Process] = {}
        self._undertakers: set[int] = set()
        self._wakeup: Wakeup | None = None
        self._stops = 0
        self._restarts = 0
        self._unusable = False

    def run(self) -> None:
        """Work until stopped; with burst, until nothing is queued or running.

        Raises WerkError when the children find that they cannot work (tables missing, a wrong setting).
        """
        self._wakeup = Wakeup()
        self._supervision = Supervision(self.processes, self.pace.shutdown, burst=self.pace.burst)
        try:
            with self._signals(), self._hangup():
                children.warn_about_threads()
                # What is alive now is shared with the children as long as nobody writes to it.
                _ = gc.collect()
                gc.freeze()
                logger.info(
                    "supervisor %s: %d processes, %d threads each, queues %s",
                    os.getpid(), self.processes, self._threads, ", ".join(self.queues),
                )  # fmt: skip
                self._supervise()
        finally:
            self._wait_for_undertakers()
            gc.unfreeze()
            self._wakeup.close()
            self._wakeup = None
            self._stops = 0
        logger.info("supervisor %s: stopped", os.getpid())
        if self._unusable:
            raise WerkError("the worker ended because it cannot work; the reason is in its log, above")

    def stop(self) -> None:
        """Ask the children to finish what runs and end; asked again, to give it back. From any thread."""
        self._stops += 1
        if self._wakeup is not None:
            self._wakeup.force()

    def restart(self) -> None:
        """Replace every child, one after the other, without dropping a job. From any thread."""
        self._restarts += 1
        if self._wakeup is not None:
            self._wakeup.force()

    @property
    def _threads(self) -> int:
        return -(-self.concurrency // self.processes)

    @contextlib.contextmanager
    def _hangup(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def restart(_number: int, _frame: FrameType | None) -> None:
            self.restart()

        before = signal.signal(signal.SIGHUP, restart)
        try:
            yield
        finally:
            _ = signal.signal(signal.SIGHUP, before)

    # The loop ---------------------------------------------------------------------

    def _supervise(self) -> None:
        assert self._wakeup is not None
        supervision = self._supervision
        seen_stops = seen_restarts = 0
        try:
            while True:
                while seen_stops < self._stops:
                    seen_stops += 1
                    supervision.stop(monotonic())
                while seen_restarts < self._restarts:
                    seen_restarts += 1
                    logger.info("replacing %d children one by one", len(self._children))
                    supervision.restart()
                self._reap()
                plan = supervision.plan(monotonic())
                for pid, order in plan.orders:
                    self._tell(pid, order)
                if plan.finished:
                    break
                for slot in plan.spawn:
                    self._spawn(slot)
                if not plan.spawn:
                    self._wait(plan.wait)
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
        worker_id = new_id()
        settings = ChildSettings(
            worker_id=worker_id,
            threads=self._threads,
            queues=self.queues,
            pace=self.pace,
            strategy=self.strategy,
            hooks=self.hooks,
            max_jobs=self.max_jobs,
            ours=[process.pipe for process in self._children.values()],
        )
        children.flush()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            run_child(self.app, settings, read)
        os.close(read)
        self._children[pid] = _Process(pid, worker_id, write, _pidfd(pid))
        self._supervision.spawned(slot, pid, monotonic())
        logger.debug("started child %d", pid)

    def _reap(self) -> None:
        for process in list(self._children.values()):
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                self._ended(process, status)
        for pid in list(self._undertakers):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._undertakers.discard(pid)

    def _ended(self, process: _Process, status: int) -> None:
        del self._children[process.pid]
        os.close(process.pipe)
        if process.pidfd >= 0:
            os.close(process.pidfd)
        code = os.waitstatus_to_exitcode(status)
        if code == children.UNUSABLE:
            self._unusable = True
            self._stops = max(self._stops, 1)
        pause = self._supervision.exited(process.pid, monotonic(), clean=code == 0)
        if code in (0, children.UNUSABLE):
            return
        reason = (
            f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process exited with {code}"
        )
        again = "" if pause is None else f"; starting another{f' in {pause:.1f} s' if pause else ''}"
        logger.error("child %d died (%s): its jobs are queued again%s", process.pid, reason, again)
        self._report(process.worker_id, reason)

    def _report(self, worker_id: str, reason: str) -> None:
        """Have the jobs of a dead child recovered, by a process of its own: the parent has no connection."""
        children.flush()
        ours = [process.pipe for process in self._children.values()]
        pid = os.fork()
        if pid == 0:
            run_undertaker(self.werk, worker_id, reason, ours)
        self._undertakers.add(pid)

    def _tell(self, pid: int, order: Order) -> None:
        process = self._children.get(pid)
        if process is None:
            return
        if order is Order.KILL:
            logger.error("child %d does not end: killing it", pid)
            os.kill(pid, signal.SIGKILL)
            return
        with contextlib.suppress(BrokenPipeError):
            _ = os.write(process.pipe, children.STOP if order is Order.STOP else children.GIVE_BACK)

    def _check_memory(self) -> None:
        assert self.max_rss is not None
        for pid in list(self._children):
            used = children.resident_bytes(pid)
            if used is not None and used > self.max_rss and self._supervision.recycle(pid, monotonic()):
                logger.info("child %d uses %d MB: replacing it", pid, used // 2**20)

    # The end ----------------------------------------------------------------------

    def _kill_all(self) -> None:
        """Leave no child behind when the loop ends by an error."""
        for process in list(self._children.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            _, status = os.waitpid(process.pid, 0)
            self._ended(process, status)

    def _wait_for_undertakers(self) -> None:
        deadline = monotonic() + UNDERTAKER_SECONDS
        while self._undertakers and monotonic() < deadline:
            self._reap()
            if self._undertakers and self._wakeup is not None:
                _ = self._wakeup.wait(0.02)
        for pid in self._undertakers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            _ = os.waitpid(pid, 0)
        self._undertakers.clear()


def _pidfd(pid: int) -> int:
    """A descriptor that can be read when the process ends; -1 where there is no such thing."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


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
