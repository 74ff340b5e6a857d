"""The crew of threads."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pgwerk._handlers.interrupt import ThreadRun, stack_of
from pgwerk._handlers.run import INTERRUPTIONS, Run, monotonic
from pgwerk._handlers.thread import Runner
from pgwerk._handlers.thread_loop import close_loop
from pgwerk.errors import WerkError
from pgwerk.workers.crews.base import deadline_of
from pgwerk.workers.crews.queued import QueuedCrew

logger = logging.getLogger("pgwerk.worker")


class _Hand:
    """A thread of a crew. Told apart by this object: the ident of a thread that has ended passes to another one."""

    def __init__(self, work: Callable[["_Hand"], None], name: str) -> None:
        self.left = False
        """Whether it was left behind: it takes no more jobs."""
        self.ident = 0
        """Of the thread, which says so itself when it begins."""
        self.thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)


@dataclass(eq=False, slots=True)
class _HandRun(ThreadRun):
    """A run in such a thread."""

    hand: _Hand = field(kw_only=True)


class ThreadCrew(QueuedCrew):
    """Handlers in a fixed number of daemon threads."""

    def __init__(self, runner: Runner, size: int, wake: Callable[[], None]) -> None:
        super().__init__(size, wake)
        self._runner = runner
        self._runs: dict[int, _HandRun] = {}
        """By their own id; a run that was left behind is not in it any more."""
        self._hands: list[_Hand] = []

    def start(self) -> None:
        """Start the threads."""
        for _ in range(self._size):
            self._add_thread()

    def _add_thread(self) -> None:
        hand = _Hand(self._work, f"werk-{len(self._hands) + 1}")
        hand.thread.start()
        self._hands.append(hand)

    def _work(self, hand: _Hand) -> None:
        hand.ident = threading.get_ident()
        while not hand.left:
            try:
                if not self._work_once(hand):
                    break
            except INTERRUPTIONS:
                # It was meant for a run that had just ended.
                continue
        close_loop()

    def _work_once(self, hand: _Hand) -> bool:
        claimed = self._jobs.get()
        if claimed is None:
            return False
        started = monotonic()
        run = _HandRun(claimed, started, deadline_of(claimed, started), thread=hand.ident, hand=hand)
        if self.begun is not None:
            self.begun.begin(claimed, run.deadline)
        self._runs[id(run)] = run
        if run.deadline is not None:
            self._begins(run)
        outcome = self._runner.run(run)
        if self._runs.pop(id(run), None) is run:
            self._over(run, outcome)
        return True

    def running(self) -> Sequence[Run]:
        """What runs now."""
        return list(self._runs.values())

    def _leave_behind(self, run: Run, *, replace: bool) -> None:
        assert isinstance(run, _HandRun)
        if self._runs.pop(id(run), None) is not run:
            return
        self.crippled = True
        run.hand.left = True
        job = run.claimed.job
        logger.error(
            "job %s (%s) did not stop: abandoning its thread%s. It is at:\n%s",
            job.id,
            job.function,
            " and this process will be replaced" if replace else "",
            stack_of(run.thread),
        )
        self._over(run)
        if replace:
            # The slot is not lost, even where nobody replaces the process.
            try:
                self._add_thread()
            except RuntimeError as error:
                logger.error("cannot start a thread in place of an abandoned one: %s", error)  # noqa: TRY400
                if all(hand.left for hand in self._hands):
                    self.broken = WerkError(f"every thread was abandoned, and no new one can be started: {error}")

    def close(self) -> None:
        """Let the threads end; those left behind end with the process."""
        for _ in self._hands:
            self._jobs.put(None)
        for hand in self._hands:
            if not hand.left:
                hand.thread.join(1.0)
