"""An exception that is raised in a thread from outside leaves no lock taken and loses no connection."""

import concurrent.futures
import importlib
import io
import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg_pool
import pytest

from pgwerk._handlers.interrupt import ThreadRun
from pgwerk._handlers.run import INTERRUPTIONS
from pgwerk.errors import JobTimeout

pytestmark = pytest.mark.untraced

ROUNDS = 60


def free(lock: Any) -> bool:
    """Whether another thread gets it."""
    found: list[bool] = []

    def take() -> None:
        taken = lock.acquire(timeout=5)
        found.append(taken)
        if taken:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return found[0]


class Victim:
    """A thread that does the same thing until it is interrupted."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.run = ThreadRun(None, time.monotonic(), None)  # type: ignore[arg-type]  # no job, only a thread
        self.arrived: BaseException | None = None
        self._act = act
        self._begun = threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        assert self._begun.wait(10)

    def _work(self) -> None:
        self.run.thread = threading.get_ident()
        try:
            self.run.open = True
            self._begun.set()
            try:
                while True:
                    self._act()
            except INTERRUPTIONS as error:
                self.arrived = error
            self.run.close()
        except INTERRUPTIONS as error:
            self.run.close()
            self.arrived = self.arrived or error

    def interrupt(self) -> None:
        self.run.interrupt(JobTimeout)
        self.thread.join(20)
        assert not self.thread.is_alive(), "it was never interrupted"
        assert isinstance(self.arrived, JobTimeout)


def interrupt_again_and_again(act: Callable[[], Any], whole: Callable[[], bool], rounds: int = ROUNDS) -> None:
    for number in range(rounds):
        victim = Victim(act)
        time.sleep(number % 7 / 5000)
        victim.interrupt()
        assert whole(), f"after {number + 1} interruptions"


def test_logging() -> None:
    handler = logging.StreamHandler(io.StringIO())
    logger = logging.getLogger("one of a handler's own")
    logger.propagate = False
    logger.addHandler(handler)
    interrupt_again_and_again(lambda: logger.warning("busy %s", 1), lambda: free(handler.lock) and free(logging._lock))  # type: ignore[attr-defined]
    logger.removeHandler(handler)


def test_logging_to_a_file_is_where_others_run(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log")
    logger = logging.getLogger("one of a handler's own")
    logger.propagate = False
    logger.addHandler(handler)
    interrupt_again_and_again(lambda: logger.warning("busy %s", 1), lambda: free(handler.lock))
    logger.removeHandler(handler)
    handler.close()


def test_the_levels_of_loggers() -> None:
    """Their cache has the lock that all of logging shares."""
    logger = logging.getLogger("tests.moments")

    def act() -> None:
        logger.setLevel(logging.INFO)
        _ = logger.isEnabledFor(logging.DEBUG)

    interrupt_again_and_again(act, lambda: free(logging._lock), 30)  # type: ignore[attr-defined]


def test_conditions_events_and_queues() -> None:
    condition, event, items = threading.Condition(threading.Lock()), threading.Event(), queue.Queue[int](2)

    def act() -> None:
        with condition:
            condition.notify_all()
            _ = condition.wait(0.0001)
        event.set()
        event.clear()
        _ = event.wait(0.0001)
        items.put(1)
        _ = items.get()

    def whole() -> bool:
        with items.mutex:
            items.queue.clear()
        return free(condition) and free(event._cond) and free(items.mutex)  # type: ignore[attr-defined]

    interrupt_again_and_again(act, whole)


def test_imports() -> None:
    def act() -> None:
        importlib.reload(importlib.import_module("colorsys"))
        # Longer than the interpreter's switch interval: a look at a thread comes where it lets others run.
        until = time.perf_counter() + 0.012
        while time.perf_counter() < until:
            pass

    def whole() -> bool:
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            return other.submit(importlib.reload, importlib.import_module("colorsys")).result(5).__name__ == "colorsys"

    interrupt_again_and_again(act, whole)


def test_a_pool_of_connections(dsn: str) -> None:
    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=2, open=True, timeout=5) as pool:

        def act() -> None:
            with pool.connection():
                pass

        def whole() -> bool:
            both = [pool.getconn(), pool.getconn()]
            for one in both:
                pool.putconn(one)
            return True

        interrupt_again_and_again(act, whole, 30)


def test_waiting_for_a_connection_of_a_pool_is_interrupted_and_loses_none(dsn: str) -> None:
    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=1, open=True, timeout=30) as pool:
        with pool.connection():
            victim = Victim(lambda: pool.getconn(30))
            began = time.monotonic()
            victim.interrupt()
            assert time.monotonic() - began < 10
        with pool.connection(5) as connection:
            assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("wait", [lambda: time.sleep(0.01), lambda: threading.Event().wait(0.01)])
def test_waits_are_interrupted_at_once(wait: Callable[[], Any]) -> None:
    victim = Victim(wait)
    began = time.monotonic()
    victim.interrupt()
    assert time.monotonic() - began < 1


def test_a_block_that_waits_in_its_entry_is_interrupted_all_the_same() -> None:
    class Polling:
        def __enter__(self) -> None:
            while True:
                time.sleep(0.005)

        def __exit__(self, *_error: object) -> None:
            pass

    def act() -> None:
        with Polling():
            pass

    Victim(act).interrupt()


def test_nothing_is_raised_on_account_of_a_run_whose_thread_has_gone_on() -> None:
    """The thread, or whoever got its ident, runs something else by then."""
    for _ in range(300):
        ready, over = threading.Event(), threading.Event()
        run = ThreadRun(None, 0.0, None)  # type: ignore[arg-type]  # no job, only a thread
        run.open = True
        raised: list[BaseException] = []

        def other(
            run: ThreadRun = run,
            ready: threading.Event = ready,
            over: threading.Event = over,
            raised: list[BaseException] = raised,
        ) -> None:
            closed = False
            try:
                try:
                    run.thread = threading.get_ident()
                    ready.set()
                    over.wait()
                    run.close()
                except JobTimeout:
                    run.close()
                closed = True
                until = time.monotonic() + 0.003
                while time.monotonic() < until:
                    pass
            except BaseException as error:  # noqa: BLE001  # none is expected
                raised.append(error)
            assert closed

        thread = threading.Thread(target=other)
        thread.start()
        assert ready.wait(10)
        run.interrupt(JobTimeout)
        over.set()
        thread.join()
        assert not raised
