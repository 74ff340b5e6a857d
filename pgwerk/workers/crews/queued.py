"""The crews whose threads wait for jobs in one queue: what is submitted to them and not started."""

import contextlib
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

from pgwerk._core.claim import Claimed
from pgwerk.workers.crews.base import Crew


class QueuedCrew(Crew):
    """A crew whose threads take jobs from a queue; None tells one of them to end."""

    def __init__(self, size: int, wake: Callable[[], None]) -> None:
        super().__init__(size, wake)
        self._jobs: SimpleQueue[Claimed | None] = SimpleQueue()

    def submit(self, jobs: Iterable[Claimed]) -> None:
        """Put jobs into the queue."""
        for job in jobs:
            self._jobs.put(job)

    def take_back(self) -> list[Claimed]:
        """Empty the queue."""
        found: list[Claimed] = []
        with contextlib.suppress(Empty):
            while True:
                claimed = self._jobs.get_nowait()
                if claimed is not None:
                    found.append(claimed)
        return found

    @property
    def waiting(self) -> bool:
        """Whether anything is submitted and not started."""
        return not self._jobs.empty()
