"""``_sync=True``: what running a job in the calling process consists of, and in what order it is recorded."""

import os
import socket
from collections.abc import Callable, Generator
from typing import Any

from pgwerk._app.clock import new_id
from pgwerk._core.claim import Claimed
from pgwerk._core.job import Job
from pgwerk._core.operation import Operation, Statement
from pgwerk._core.operations.enqueue import NewJob, begin_inline
from pgwerk._core.operations.settle import settle
from pgwerk._core.outcome import Report
from pgwerk._core.statements import claims, queries, running, workers
from pgwerk._core.statements.columns import Decode
from pgwerk.errors import EnqueueError

Step = Operation[Any] | Claimed
"""An operation to run, or a claimed job whose handler is to be run."""


class InlineWorker:
    """Stands for a worker in the context of a job that runs in the caller's process."""

    name = "inline"
    queues: tuple[str, ...] = ()
    stopping = False

    def __init__(self) -> None:
        self.id = new_id()

    def report_progress(self, claimed: Claimed, fraction: float, message: str | None) -> None:
        """Nobody can look while it runs in the caller's transaction; the job's own attribute is set already."""

    def register(self, live: float) -> Statement[Any]:
        """Show that the job is being run, when that takes longer than a heartbeat: others would recover it."""
        metadata = {"pid": os.getpid(), "host": socket.gethostname(), "worker_type": "inline"}
        return workers.register(self.id, self.name, (), metadata, live)

    def leave(self) -> Statement[Any]:
        """Take that back."""
        return workers.leave(self.id)


def refuse_to_run(new_job: NewJob) -> None:
    """Raise EnqueueError for a job that cannot run at once."""
    if new_job.depends_on or new_job.values.get("group_key"):
        raise EnqueueError("_sync runs the job at once: it cannot wait for _depends_on or for its _group")


def in_place(
    new_job: NewJob, worker: InlineWorker, decode: Decode, interruption: Callable[[], BaseException | None]
) -> Generator[Step, Any, Job | None]:
    """Insert a job, have it run with the attempts it has, and record it; None: its key exists.

    A failure is recorded and not raised. For a claimed job it is sent (outcome, seconds it took). What *interruption*
    has for whoever waits for this is raised between attempts, when all is recorded.
    """
    values = {name: value for name, value in new_job.values.items() if name not in ("delay", "at")}
    claimed: Claimed | None = yield begin_inline(NewJob(values), worker.id)
    if claimed is None:
        return None
    while claimed is not None:
        outcome, seconds = yield claimed
        verdicts = yield settle([Report(new_job.id, claimed.claim, outcome, began=seconds)], worker.id)
        yield running.retire([claimed.claim])
        error = interruption()
        if error is not None:
            raise error
        verdict = verdicts.get(new_job.id)
        if verdict is None or verdict.terminal:
            break
        claimed = yield claims.claim_one(new_job.id, worker.id)
    job: Job | None = yield queries.get(new_job.id, decode)
    return job
