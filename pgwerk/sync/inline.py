"""``_sync=True``: running a job in the calling thread, recorded as if a worker had run it."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from pgwerk._app.inline import InlineWorker, Step, in_place, refuse_to_run
from pgwerk._core.claim import Claimed
from pgwerk._core.job import Job
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._handlers.call import Hooks
from pgwerk._handlers.interrupt import ThreadRun
from pgwerk._handlers.run import current_run, monotonic
from pgwerk._handlers.thread import Runner
from pgwerk._handlers.thread_loop import close_loop
from pgwerk.errors import WerkError
from pgwerk.sync.runtime import Runtime


def run_inline(werk: Any, runtime: Runtime, new_job: NewJob, conn: Any) -> Job | None:
    """Insert a job, run it here and now with the attempts it has, and record it; on *conn*, all in its transaction.

    A failure is recorded and not raised: look at the job that is returned.
    """
    refuse_to_run(new_job)
    connection = runtime.joined(conn)
    worker = InlineWorker()
    runner = Runner(werk, worker, runtime.app.serializer, Hooks(middleware=runtime.app.middleware), werk.get_job)
    outer = current_run()

    def interruption() -> BaseException | None:
        """What is meant for the job that runs this one, which must not miss it."""
        return outer.reason() if outer is not None and outer.reason is not None else None

    def take(step: Step) -> Any:
        if not isinstance(step, Claimed):
            return runtime.backend.run(step, connection)
        run = ThreadRun(step, monotonic(), None)
        try:
            return runner.run(run), monotonic() - run.started
        finally:
            if outer is None:
                # Of a coroutine function; a thread of a worker keeps its loop, this one may end without notice.
                close_loop()

    steps = in_place(new_job, worker, runtime.app.decode, interruption)
    reply: Any = None
    with contextlib.nullcontext() if connection is not None else _kept_alive(runtime, worker):
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                job: Job | None = stop.value
                return job
            reply = take(step)


@contextlib.contextmanager
def _kept_alive(runtime: Runtime, worker: InlineWorker) -> Iterator[None]:
    """Show now and then that the job is being run."""
    over = threading.Event()

    def beat() -> None:
        registered = False
        while not over.wait(runtime.app.config.heartbeat_interval):
            with contextlib.suppress(WerkError):
                runtime.backend.run(worker.register(runtime.app.liveness))
                registered = True
        if registered:
            with contextlib.suppress(WerkError):
                runtime.backend.run(worker.leave())

    thread = threading.Thread(target=beat, name="pgwerk-inline", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
