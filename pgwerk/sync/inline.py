"""``_sync=True``: running a job in the calling process, recorded as if a worker had run it."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pgwerk._clock import new_id
from pgwerk._connections import usable_connection
from pgwerk._core.job import Job
from pgwerk._core.operations.enqueue import Order, begin_inline
from pgwerk._core.operations.settle import settle
from pgwerk._core.outcome import Report
from pgwerk._core.statements import claims, closing, queries, workers
from pgwerk._handlers import Hooks
from pgwerk._runs import current_run, monotonic
from pgwerk.errors import EnqueueError, WerkError
from pgwerk.sync.executor import Executor
from pgwerk.sync.runner import Runner
from pgwerk.sync.slots import ThreadRun

if TYPE_CHECKING:
    from pgwerk.sync.app import Werk


class InlineWorker:
    """Stands for a worker in the context of a job that runs in the caller's process."""

    name = "inline"
    queues: tuple[str, ...] = ()
    stopping = False

    def __init__(self) -> None:
        self.id = new_id()

    def report_progress(self, claimed: claims.Claimed, fraction: float, message: str | None) -> None:
        """Nobody can look while it runs in the caller's transaction; the job's own attribute is set already."""


def run_inline(app: "Werk", order: Order, conn: Any) -> Job | None:
    """Insert a job, run it here and now with the attempts it has, and record it; on *conn*, all in its transaction.

    A failure is recorded and not raised: look at the job that is returned.
    """
    if order.depends_on or order.values.get("group_key"):
        raise EnqueueError("_sync runs the job at once: it cannot wait for _depends_on or for its _group")
    connection = usable_connection(conn) if conn is not None else None
    if connection is None or app.auto_migrate:
        app.connect_lazily()
    executor = app.executor
    worker = InlineWorker()
    values = {name: value for name, value in order.values.items() if name not in ("delay", "at")}
    claimed = executor.run(begin_inline(Order(values), worker.id), connection)
    if claimed is None:
        return None
    runner = Runner(app, worker, app.serializer, Hooks(), app.get_job)
    with contextlib.nullcontext() if connection is not None else _kept_alive(app, worker):
        _run_attempts(executor, runner, worker, order, claimed, connection)
    return executor.run(queries.get(order.id, app.decode), connection)


def _run_attempts(
    executor: Executor, runner: Runner, worker: InlineWorker, order: Order, first: claims.Claimed, connection: Any
) -> None:
    outer = current_run()
    claimed: claims.Claimed | None = first
    while claimed is not None:
        run = ThreadRun(claimed, monotonic(), None)
        outcome = runner.run(run)
        report = Report(order.id, claimed.claim, outcome, began=monotonic() - run.started)
        verdicts = executor.run(settle([report], worker.id), connection)
        executor.run(closing.retire([claimed.claim]), connection)
        if outer is not None and outer.reason is not None:
            # Meant for the job that runs this one, which must not miss it.
            raise outer.reason
        verdict = verdicts.get(order.id)
        if verdict is None or verdict.terminal:
            break
        claimed = executor.run(claims.claim_one(order.id, worker.id), connection)


@contextlib.contextmanager
def _kept_alive(app: "Werk", worker: InlineWorker) -> Iterator[None]:
    """Show that the job is being run, when that takes longer than a heartbeat: others would recover it."""
    over = threading.Event()

    def beat() -> None:
        registered = False
        while not over.wait(app.config.heartbeat_interval):
            metadata = {"pid": os.getpid(), "host": socket.gethostname(), "worker_type": "inline"}
            with contextlib.suppress(WerkError):
                app.executor.run(workers.register(worker.id, worker.name, (), metadata, app.liveness))
                registered = True
        if registered:
            with contextlib.suppress(WerkError):
                app.executor.run(workers.leave(worker.id))

    thread = threading.Thread(target=beat, name="pgwerk-inline", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
