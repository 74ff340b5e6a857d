"""The workers whose handlers run in processes of their own."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Unpack

from pgwerk._core import options as opt
from pgwerk.workers.base import WorkerSettings
from pgwerk.workers.crews.base import TIMEOUT_GRACE, Crew
from pgwerk.workers.crews.processes import Limits, ProcessCrew
from pgwerk.workers.forking.channel import Board
from pgwerk.workers.forking.host import HostSettings, host
from pgwerk.workers.forking.zygote import Zygote
from pgwerk.workers.pooled import CrewWorker
from pgwerk.workers.prefork import byte_size

logger = logging.getLogger("pgwerk.worker")


class HostingWorker(CrewWorker):
    """Run jobs in children of a zygote, a process that is forked when the worker begins to run."""

    forks = True

    unit = "processes"
    limits = Limits(TIMEOUT_GRACE)
    _zygote: Zygote | None = None
    _board: Board | None = None

    def run(self) -> None:
        """Work until stopped; with burst, until nothing is queued or running.

        Raises WerkError when startup hooks fail again and again, or when the zygote is killed.
        """
        # Before there is a connection or a thread of ours.
        self._board = Board(self.concurrency)
        settings = HostSettings(
            self.app, self.werk, self.hooks, self._board,
            self.id, self.name, self.queues, self.concurrency, self.kind,
        )  # fmt: skip
        self._zygote = Zygote(partial(host, settings))
        try:
            super().run()
        finally:
            self._zygote.close()
            self._zygote = self._board = None

    def _start_app(self) -> None:
        """Check the tables; startup hooks run in the children."""
        self.runtime.connect()

    def _crew(self, wake: Callable[[], None]) -> Crew:
        assert self._zygote is not None
        assert self._board is not None
        return ProcessCrew(self._zygote, self._board, self.concurrency, wake, self.report_progress, self.limits)


class ProcessWorker(HostingWorker):
    """Run jobs in *concurrency* child processes that live on, one job at a time each.

    A handler that does not stop within 5 seconds of its timeout, of an abort or of a shutdown is killed; one that
    dies takes only its own process along. A child is replaced after *max_jobs* jobs, or when it uses more than
    *max_rss* (bytes, or text like "600M"); startup hooks of the app run in each child, and not in this process.
    """

    kind = "process"

    def __init__(
        self,
        app: Any,
        queues: Sequence[str] | str = ("default",),
        concurrency: int = 10,
        *,
        max_jobs: int | None = None,
        max_rss: int | str | None = None,
        **settings: Unpack[WorkerSettings],
    ) -> None:
        super().__init__(app, queues, concurrency, **settings)
        self.limits = Limits(
            TIMEOUT_GRACE,
            None if max_jobs is None else opt.whole("max_jobs", max_jobs, 1, 2**31),
            None if max_rss is None else byte_size(max_rss),
        )
