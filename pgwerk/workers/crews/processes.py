"""The crew of processes: one thread here for each, which hands it jobs and listens to it."""

import contextlib
import logging
import math
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pgwerk._core import backoff
from pgwerk._core.claim import Claimed
from pgwerk._core.outcome import Failed, Lost, Outcome
from pgwerk._handlers.run import Interruption, Run, monotonic
from pgwerk.errors import WerkError, WorkerShutdown
from pgwerk.workers.crews.base import deadline_of
from pgwerk.workers.crews.child_run import ChildRun
from pgwerk.workers.crews.queued import QueuedCrew
from pgwerk.workers.forking.channel import Board, Progress, Ready
from pgwerk.workers.forking.host import read_progress
from pgwerk.workers.forking.zygote import HostedChild, Zygote
from pgwerk.workers.supervising.child import resident_bytes

logger = logging.getLogger("pgwerk.worker")

START_TRIES = 4
"""How many times in a row a slot's child may fail to start before the worker gives up."""
END_SECONDS = 1.0
"""How long a child that hung up may take to be reported as ended."""

Report = Callable[[Claimed, float, str | None], None]


@dataclass
class Limits:
    """When a child is replaced, and how long it has when it is interrupted."""

    grace: float
    max_jobs: int | None = None
    max_rss: int | None = None

    def jobs(self) -> float:
        """How many jobs a new child gets: not all children are replaced at once."""
        if self.max_jobs is None:
            return math.inf
        return max(1, int(self.max_jobs * random.uniform(0.9, 1.0)))


class ProcessCrew(QueuedCrew):
    """Handlers in child processes, each of which has one slot and runs one job at a time."""

    def __init__(
        self, zygote: Zygote, board: Board, size: int, wake: Callable[[], None], report: Report, limits: Limits
    ) -> None:
        super().__init__(size, wake)
        self.grace = limits.grace
        self._zygote = zygote
        self._board = board
        self._report = report
        self._limits = limits
        self._runs: set[ChildRun] = set()
        """A run that was left behind is not in it any more."""
        self._last_orders: Interruption | None = None
        """Why every run is interrupted, those included that begin just then."""
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads, which ask for their children."""
        self._zygote.watch(self._zygote_died)
        for slot in range(self._size):
            thread = threading.Thread(target=self._work, args=(slot,), name=f"werk-{slot + 1}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def running(self) -> Sequence[Run]:
        """What runs now."""
        return list(self._runs)

    def stopping(self) -> None:
        """Let handlers see it."""
        self._board.stop()

    def close(self) -> None:
        """Let the children end; handlers have ended, or are killed here."""
        self._closing.set()
        for _ in self._threads:
            self._jobs.put(None)
        for run in list(self._runs):
            run.child.kill()
        self._zygote.hang_up()
        for thread in self._threads:
            thread.join(END_SECONDS)

    # Interrupting -----------------------------------------------------------------

    def interrupt(self, reason: Interruption, ids: Iterable[str] | None = None) -> None:
        """Interrupt running handlers; all without *ids*."""
        if ids is None:
            self._last_orders = reason
        super().interrupt(reason, ids)

    def interrupt_overdue(self, now: float) -> None:
        """Interrupt handlers past their timeout, and remind those that go on; from any thread."""
        super().interrupt_overdue(now)
        for run in list(self._runs):
            run.remind(now)

    def next_interruption(self) -> float:
        """When `interrupt_overdue` has something to do next; from any thread."""
        return min([super().next_interruption(), *(run.remind_at for run in list(self._runs) if run.open)])

    def _end_of_patience(self, run: Run) -> float:
        # Also at a shutdown: a process can be killed, so nothing is gained by waiting for longer.
        return math.inf if run.reason is None else run.interrupted + self.grace

    def _next_moment(self, run: Run) -> float:
        assert isinstance(run, ChildRun)
        return min(super()._next_moment(run), run.remind_at)

    def _leave_behind(self, run: Run, *, replace: bool) -> None:  # noqa: ARG002  # the slot's thread replaces it
        assert isinstance(run, ChildRun)
        if not self._withdraw(run):
            return
        if run.reason is None:
            run.reason = WorkerShutdown
        run.close()
        run.child.kill()
        job = run.claimed.job
        logger.error("job %s (%s) did not stop: killing its process %d", job.id, job.function, run.child.pid)
        self._over(run)

    def _withdraw(self, run: ChildRun) -> bool:
        """Take a run off the books; False when somebody has. Whoever takes it reports it."""
        try:
            self._runs.remove(run)
        except KeyError:
            return False
        return True

    def _zygote_died(self, error: WerkError) -> None:
        self.blame = str(error)
        self._break(error)

    def _break(self, error: WerkError) -> None:
        self.broken = self.broken or error
        self._wake()

    # Slots ------------------------------------------------------------------------

    def _work(self, slot: int) -> None:
        """Be the thread of a slot."""
        while not self._closing.is_set():
            child = self._new_child(slot)
            if child is None:
                return
            limit = self._limits.jobs()
            while (claimed := self._jobs.get()) is not None:
                child.jobs += 1
                if not self._run(child, slot, claimed) or child.jobs >= limit or self._too_large(child):
                    break
            child.channel.close()
            if claimed is None:
                return

    def _new_child(self, slot: int) -> HostedChild | None:
        """Have a child forked and wait until it is ready; None when there is no hope or no need."""
        reason, failures, unforked = "", 0, 0
        while failures < START_TRIES:
            try:
                child = self._zygote.spawn(slot)
            except WerkError as error:
                self._break(error)
                return None
            except OSError as error:
                # Out of descriptors; others will be closed.
                unforked += 1
                if not self._pause_without_child(str(error), unforked):
                    return None
                continue
            said = None
            with contextlib.suppress(EOFError, OSError):
                said = child.channel.receive()
            if isinstance(said, Ready):
                child.pid = said.pid
                return child
            child.channel.close()
            if self._closing.is_set() or self._zygote.dead is not None:
                return None
            ending = None if said is not None else child.ending(END_SECONDS)
            if ending is not None and ending.status < 0:
                # The system has no room for another process, which says nothing about the next try.
                unforked += 1
                if not self._pause_without_child(str(ending), unforked):
                    return None
                continue
            failures += 1
            reason = said.reason if said is not None else str(ending)
            logger.error("a job process did not start: %s", reason)
            if self._closing.wait(backoff.reconnect(failures, random.random())):
                return None
        self._break(WerkError(f"no job process could be started; the last error: {reason}"))
        return None

    def _pause_without_child(self, why: str, times: int) -> bool:
        """Wait for the system to have room for a child again; False when there is no need any more."""
        if times == 1:
            logger.error("could not start a job process, retrying until it works: %s", why)
        return not self._closing.wait(backoff.reconnect(times, random.random()))

    def _too_large(self, child: HostedChild) -> bool:
        if self._limits.max_rss is None:
            return False
        used = resident_bytes(child.pid)
        if used is None or used <= self._limits.max_rss:
            return False
        logger.info("process %d uses %d MB: replacing it", child.pid, used // 2**20)
        return True

    def _run(self, child: HostedChild, slot: int, claimed: Claimed) -> bool:
        """Run a job in a child and report it; False when the child is gone."""
        self._board.wipe(slot)
        started = monotonic()
        run = ChildRun(claimed, started, deadline_of(claimed, started), child=child, slot=slot, board=self._board)
        run.open = True
        self._runs.add(run)
        self._begins(run)
        if self._last_orders is not None:
            run.interrupt(self._last_orders)
        outcome = self._converse(child, claimed)
        run.close()
        lives = outcome is not None
        begun = self._board.begun(slot)
        if not lives and begun and run.reason is None:
            outcome = self._lost(child)
        if self._withdraw(run):
            if lives or begun or run.reason is not None:
                self._over(run, outcome)
                return lives
            # The child was dead before the job reached it: another one will do.
            self._jobs.put(claimed)
        return False

    def _converse(self, child: HostedChild, claimed: Claimed) -> Outcome | None:
        """Hand over a job and listen until it has ended; None when the child is gone before."""
        try:
            child.channel.send(claimed)
            while isinstance(said := child.channel.receive(), Progress):
                self._report(claimed, *read_progress(said))
        except (EOFError, OSError):
            return None
        except Exception:
            logger.exception("received an invalid message from a job process")
            return None
        outcome: Outcome = said
        return outcome

    def _lost(self, child: HostedChild) -> Outcome:
        """What to say about a job whose child is gone."""
        ending = child.ending(END_SECONDS)
        if ending is not None:
            return Failed(str(ending))
        if self._zygote.dead is not None:
            # Killed with the zygote, be it through its own fault or not.
            return Lost(f"worker lost: {self._zygote.dead}", begun=True)
        # It closed its descriptors, or sent what is no message.
        child.kill()
        return Failed("its process hung up on its worker, and was killed")
