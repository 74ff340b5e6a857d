"""A coordinator that sleeps is woken by a handler whose time is over sooner, and by none without such a need."""

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from pgwerk._app.clock import new_id
from pgwerk._core.claim import Claimed
from pgwerk._core.job import Job
from pgwerk._core.outcome import SUCCEEDED
from pgwerk._handlers.run import monotonic
from pgwerk.workers.crews.base import Crew
from pgwerk.workers.crews.loop import LoopCrew
from pgwerk.workers.crews.threads import ThreadCrew
from tests.fixtures.waiting import eventually


def claimed(timeout: float | None) -> Claimed:
    job = Job(id=new_id())
    return Claimed(job.id, "app.work", 1, None, timeout, True, True, lambda _: job, None, job)


class Handler:
    """A handler that runs until it is told to end."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.end = threading.Event()
        self.threads = self

    def run(self, _run: Any) -> Any:
        self.begun.release()
        assert self.end.wait(10)
        return SUCCEEDED

    def close(self) -> None:
        pass


class LoopHandler(Handler):
    async def _run(self) -> Any:
        self.begun.release()
        assert await asyncio.to_thread(self.end.wait, 10)
        return SUCCEEDED

    def run(self, _run: Any) -> Any:
        return self._run()


Made = tuple[Crew, Handler, list[str]]
Make = Callable[[], Made]


@pytest.fixture(params=["threads", "loop"])
def made(request: pytest.FixtureRequest) -> Iterator[Made]:
    woken: list[str] = []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    crew: Crew
    if request.param == "threads":
        handler = Handler()
        crew = ThreadCrew(cast("Any", handler), 3, lambda: woken.append("woken"))
    else:
        handler = LoopHandler()
        crew = LoopCrew(cast("Any", handler), 3, lambda: woken.append("woken"), loop)
    thread.start()
    crew.start()
    yield crew, handler, woken
    handler.end.set()
    eventually(lambda: not crew.running())
    crew.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize(
    ("timeout", "sleeps", "wakes"),
    [(0.1, 5.0, True), (0.1, math.inf, True), (60.0, 5.0, False), (None, 5.0, False), (0.1, None, False)],
)
def test_who_begins_with_little_time_wakes_the_coordinator(
    made: Made, timeout: float | None, sleeps: float | None, wakes: bool
) -> None:
    crew, handler, woken = made
    if sleeps is not None:
        until = monotonic() + sleeps
        assert crew.sleep_until(until) == until
    crew.submit([claimed(timeout)])
    assert handler.begun.acquire(timeout=10)
    assert bool(woken) is wakes


def test_who_has_begun_before_shortens_the_sleep(made: Made) -> None:
    crew, handler, woken = made
    crew.submit([claimed(1.0), claimed(None), claimed(2.0)])
    for _ in range(3):
        assert handler.begun.acquire(timeout=10)
    now = monotonic()
    assert crew.sleep_until(now + 0.5) == now + 0.5
    assert now < crew.sleep_until(now + 30) <= now + 1.0
    crew.awake()
    assert woken == []
