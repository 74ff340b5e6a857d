"""What a prefork parent has processes of their own do, because it has no connection: short-lived, and forked."""

import contextlib
import logging
import math
import os
import signal
from collections.abc import Callable, Sequence
from typing import NoReturn

from pgwerk._core.operations.recover import Begun
from pgwerk._core.statements.workers import renew
from pgwerk._handlers.run import monotonic
from pgwerk.errors import WerkError
from pgwerk.sync.app import Werk
from pgwerk.sync.runtime import runtime_of
from pgwerk.workers.forking import signals
from pgwerk.workers.supervising.child import become_a_child, flush, run_recoverer

logger = logging.getLogger("pgwerk.worker")

RECOVERER_SECONDS = 5.0
"""How long a parent that ends waits for the jobs of dead children to be reported."""
AGAIN = 0.5
"""Seconds until it is tried again to have them reported, when no process could be forked."""
FAILED = 1


class HelperProcesses:
    """Report the dead, and speak for the living that cannot; at most one of the latter at a time."""

    def __init__(self, werk: Werk, ours: Callable[[], Sequence[int]]) -> None:
        self._werk = werk
        self._ours = ours
        """The parent's ends of its children's pipes."""
        self._recoverers: set[int] = set()
        self._unreported: list[tuple[str, str, Begun | None]] = []
        """Dead children (id, reason, what had begun) for which no process could be forked so far."""
        self._again_at = 0.0
        self._heartbeater: int | None = None

    def report(self, worker_id: str, reason: str, begun: Begun | None) -> None:
        """Have the jobs of a dead child recovered; when no process can be had for that, soon.

        *begun*: None when nobody knows.
        """
        if not self._report(worker_id, reason, begun):
            self._unreported.append((worker_id, reason, begun))
            self._again_at = monotonic() + AGAIN

    def _report(self, worker_id: str, reason: str, begun: Begun | None) -> bool:
        ours = self._ours()
        flush()
        try:
            pid = signals.fork()
        except OSError as error:
            logger.debug("recoverer: %s", error)
            return False
        if pid == 0:
            run_recoverer(self._werk, worker_id, reason, begun, ours)
        self._recoverers.add(pid)
        return True

    def _report_again(self) -> None:
        if self._unreported and monotonic() >= self._again_at:
            unreported, self._unreported = self._unreported, []
            for worker_id, reason, begun in unreported:
                self.report(worker_id, reason, begun)

    def renew(self, worker_ids: Sequence[str], live: float, seconds: float) -> bool:
        """Have heartbeats sent for children, within so many seconds; False when that cannot even begin.

        For none, it only shows whether Postgres is there.
        """
        assert self._heartbeater is None
        ours = self._ours()
        flush()
        try:
            pid = signals.fork()
        except OSError as error:
            logger.debug("heartbeat helper: %s", error)
            return False
        if pid == 0:
            run_heartbeater(self._werk, worker_ids, live, seconds, ours)
        self._heartbeater = pid
        return True

    def reap(self) -> bool | None:
        """Let go of what has ended; whether heartbeats arrived, None when none were being sent, or still are."""
        self._report_again()
        for pid in list(self._recoverers):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._recoverers.discard(pid)
        if self._heartbeater is None:
            return None
        pid, status = os.waitpid(self._heartbeater, os.WNOHANG)
        if not pid:
            return None
        self._heartbeater = None
        return os.waitstatus_to_exitcode(status) == 0

    def finish(self, pause: Callable[[float], object]) -> None:
        """Wait until the dead are reported, but not for ever."""
        if self._heartbeater is not None:
            self._recoverers.add(self._heartbeater)
            _kill(self._heartbeater)
            self._heartbeater = None
        deadline = monotonic() + RECOVERER_SECONDS
        while (self._recoverers or self._unreported) and monotonic() < deadline:
            _ = self.reap()
            if self._recoverers or self._unreported:
                _ = pause(0.02)
        for pid in self._recoverers:
            _kill(pid)
            _ = os.waitpid(pid, 0)
        self._recoverers.clear()


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def run_heartbeater(app: Werk, worker_ids: Sequence[str], live: float, seconds: float, ours: Sequence[int]) -> NoReturn:
    """Send a heartbeat for several workers, then exit."""
    code = FAILED
    try:
        become_a_child(ours)
        # A server that does not answer must not keep the next try waiting.
        _ = signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _ = signal.alarm(max(1, math.ceil(seconds)))
        # For nobody, it is enough that the database answered.
        runtime_of(app).backend.run_once(renew(worker_ids, live) if worker_ids else None)
        code = 0
    except WerkError as error:
        logger.debug("heartbeat helper: %s", error)
    except BaseException:
        logger.debug("heartbeat helper failed", exc_info=True)
    finally:
        flush()
        os._exit(code)
