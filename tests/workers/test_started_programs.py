"""Programs and processes that handlers start are ordinary ones, whatever the worker is."""

import signal
from collections.abc import Callable

import pytest

from pgwerk import Werk
from tests.fixtures.workers import WorkerProcess, living_workers
from tests.workers import handlers, worst_handlers

KINDS = ["prefork", "thread", "process", "fork", "async"]


@pytest.fixture(params=KINDS)
def worker(app: Werk, request: pytest.FixtureRequest, worker_process: Callable[..., WorkerProcess]) -> WorkerProcess:
    """A worker of each kind, in a process of its own, with one job at a time."""
    more = {"processes": 1} if request.param == "prefork" else {}
    started = worker_process(kind=request.param, concurrency=1, **more)
    living_workers(app)
    return started


def test_programs_ignore_and_block_no_signal(app: Werk, worker: WorkerProcess) -> None:
    # Python itself ignores these two, and leaves it at that when it does not start the program by fork and exec.
    # The next two are the C library's own: nobody can set them, and whoever started these tests may ignore them.
    ours = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ, 32, 33))
    for how, (blocked, ignored) in app.apply(worst_handlers.signals_of_programs, timeout=20).items():
        assert int(blocked, 16) == 0, how
        assert int(ignored, 16) & ~ours == 0, how


def test_the_child_of_a_handler_that_forks_ends_where_the_handler_ends(app: Werk, worker: WorkerProcess) -> None:
    waiting = [app.enqueue(handlers.noted, str(number)) for number in range(20)]
    for handler in (worst_handlers.forks_and, worst_handlers.forks_in_a_coroutine_and):
        for how, status in (("exits", 3), ("raises", 1), ("returns", 0)):
            assert app.apply(handler, how, timeout=30) == status, (handler, how)
    assert "ValueError: in the child" in worker.output()
    for job in waiting:
        assert job is not None
        assert app.wait_for(job, timeout=20).attempts == 1


def test_the_child_of_a_coroutine_does_not_run_the_worker_s_loop(
    app: Werk, worker_process: Callable[..., WorkerProcess]
) -> None:
    worker = worker_process(kind="async", concurrency=4)
    living_workers(app)
    assert app.apply(worst_handlers.forks_in_a_coroutine_and, "waits", timeout=30) == 1
    assert "cannot wait on the worker's loop" in worker.output() or "no running event loop" in worker.output()
    assert app.apply(handlers.add, 1, 1, timeout=20) == 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_works_and_its_processes_can_be_terminated(
    app: Werk, worker: WorkerProcess, method: str
) -> None:
    assert app.apply(worst_handlers.uses_multiprocessing, method, timeout=60) == [42, 0, -signal.SIGTERM]
    assert app.apply(handlers.add, 1, 1, timeout=20) == 2
