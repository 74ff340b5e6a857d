"""Waiting for whatever comes next: a handler that ends or is out of time, a notification, a moment."""

from pgwerk._app.ports import WorkerConnection
from pgwerk._core.stall import Motion
from pgwerk._handlers.run import monotonic
from pgwerk.workers.coordinating.wakeup import Wakeup
from pgwerk.workers.crews.base import Crew


class Rest:
    """Waits for a coordinator. Between `prepare` and `until` it looks at all that would wake it from then on."""

    def __init__(self, crew: Crew, wakeup: Wakeup, session: WorkerConnection) -> None:
        self._crew = crew
        self._session = session
        self._wakeup = wakeup
        self.steps = 0
        """Changes with everything that the coordinator's thread does."""
        self.resting = False
        self.listen_to: int = -1
        """One more file descriptor that ends a wait."""

    def motion(self) -> Motion:
        """What others see of the coordinator's thread."""
        return Motion(self.steps + self._session.asked, self.resting, self._session.asking)

    def prepare(self) -> None:
        """Say that a wait is about to begin; whatever is checked after this and before the wait is not missed."""
        self._wakeup.prepare()

    def until(self, moment: float, *sockets: int) -> list[int]:
        """Wait until then, until woken, or until one of these sockets can be read; the readable ones."""
        self.resting = True
        # The wake-up is prepared by now: a handler that begins after this look wakes us.
        moment = self._crew.sleep_until(moment)
        ready = self._wakeup.wait(moment - monotonic(), *sockets, self.listen_to)
        self._crew.awake()
        self.steps += 1
        self.resting = False
        return ready
