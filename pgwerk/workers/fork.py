"""The worker of one process a job."""

from collections.abc import Sequence
from typing import Any, Unpack

from pgwerk._core import options as opt
from pgwerk.workers.base import WorkerSettings
from pgwerk.workers.crews.processes import Limits
from pgwerk.workers.process import HostingWorker


class ForkWorker(HostingWorker):
    """Run each job in a fresh process, up to *concurrency* at once.

    The processes are forked ahead from one that has imported what this process had when `run` was called, so that a
    job starts within milliseconds and finds nothing of the job before. Startup and shutdown hooks of the app run in
    each of them. A handler that does not stop within *sigterm_grace* seconds (None: the app's config) of its
    timeout, of an abort or of a shutdown is killed; a shutdown waits for no more than 5.
    """

    kind = "fork"

    def __init__(
        self,
        app: Any,
        queues: Sequence[str] | str = ("default",),
        concurrency: int = 10,
        *,
        sigterm_grace: float | None = None,
        **settings: Unpack[WorkerSettings],
    ) -> None:
        super().__init__(app, queues, concurrency, **settings)
        grace = app.config.sigterm_grace if sigterm_grace is None else sigterm_grace
        self.limits = Limits(opt.seconds("sigterm_grace", grace), max_jobs=1)
