"""Jobs that cannot be claimed: each would keep its worker from claiming anything.

its row                                     what becomes of it
cannot be changed as a claim changes it     it fails, or is passed over where that is refused, too (untouchable)
was claimed, and cannot be read by us       it fails; to find it, the jobs are given back and claimed one by one
"""

import logging
from collections.abc import Sequence

from pgwerk._app.ports import WorkerConnection
from pgwerk._core.agenda import Agenda
from pgwerk._core.operations.turn import Turn
from pgwerk._core.payload import storable_text
from pgwerk._core.procedures.isolate import unclaimable
from pgwerk._core.statements import running
from pgwerk._handlers.run import monotonic
from pgwerk.errors import WerkError
from pgwerk.workers.coordinating.held import HeldJobs
from pgwerk.workers.coordinating.identity import Identity
from pgwerk.workers.coordinating.untouchable import UntouchableJobs

logger = logging.getLogger("pgwerk.worker")


class UnclaimableJobs:
    """Finds the jobs for which a claim fails, and lets them fail by themselves."""

    def __init__(self, identity: Identity, session: WorkerConnection, agenda: Agenda, ledger: HeldJobs) -> None:
        self._identity = identity
        self._session = session
        self._agenda = agenda
        self._ledger = ledger
        self._untouchable = UntouchableJobs()
        """Jobs that could neither be claimed nor failed."""
        self._careful = 0
        """How many jobs to claim one by one: among so many, there is one that cannot be read."""

    def limit(self, count: int) -> int:
        """How many jobs to claim of *count*."""
        return min(count, 1) if self._careful else count

    def skip(self) -> Sequence[str]:
        """The jobs that a claim which is sent now passes over."""
        return self._untouchable.ids(monotonic()) if self._untouchable else ()

    def claimed(self, got: int) -> None:
        """A claim brought *got* jobs that could be read."""
        if self._careful:
            self._careful = self._careful - 1 if got else 0
            self._agenda.notified()

    def isolate(self, ask: Turn, error: WerkError) -> None:
        """Give up the jobs that cannot be claimed; raises *error* when that is not the reason."""
        if not ask.count:
            raise error
        if self._part_from_unreadable(error):
            return
        failed, stuck = self._session.perform(unclaimable(self._identity.queues, ask.count, ask.skip))
        if not failed and not stuck:
            raise error
        for job_id, reason in failed:
            logger.error("job %s could not be claimed: %s", job_id, reason)
        for job_id, reason in stuck:
            self._untouchable.put(job_id, reason, monotonic())

    def _part_from_unreadable(self, error: WerkError) -> bool:
        """What was claimed cannot be understood: find the job and let it fail. False: there is none."""
        strays = self._session.run(running.stray(self._identity.id, self._ledger.claims))
        if len(strays) > 1:
            logger.warning("claimed jobs cannot be read; claiming them one by one: %s", error)
            self._session.run(running.return_unread(strays))
            self._careful = len(strays)
        elif strays:
            job_id = strays[0][0]
            logger.error("job %s cannot be read; failing it: %s", job_id, error)
            self._session.run(running.fail_unread(strays, ascii_reason(f"its row could not be read: {error}")))
        else:
            return False
        self._agenda.notified()
        return True


def ascii_reason(text: str) -> str:
    """A reason that every database can store."""
    return ascii_text(storable_text(text, 2000))


def ascii_text(text: str) -> str:
    """A text that every database can store."""
    return text.encode("ascii", "backslashreplace").decode()
