"""Tasks of an asyncio app."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from pgwerk import Context, EnqueueError, JobError, JobTimeout
from pgwerk.aio import Werk
from tests.fixtures.loops import working

pytestmark = pytest.mark.in_memory

tasks = Werk("postgresql://set-by-the-fixture/x")


@tasks.task
async def double(number: int) -> int:
    return 2 * number


@tasks.task(queue="mail", priority=2, retry=3)
def triple(number: int) -> int:
    return 3 * number


@tasks.task
async def attempt(ctx: Context, factor: int) -> int:
    return ctx.job.attempts * factor


@tasks.task
async def fails() -> None:
    raise ValueError("on purpose")


@pytest.fixture
def bound(app: Werk) -> Iterator[Werk]:
    """The tasks of this module, enqueued with the app of the test."""
    made: list[Any] = [double, triple, attempt, fails]
    for task in made:
        task.app = app
    yield app
    for task in made:
        task.app = tasks


async def test_calling_a_task_calls_the_function(bound: Werk) -> None:
    assert await double(4) == 8
    assert triple(4) == 12


async def test_a_task_is_enqueued_with_its_options(bound: Werk) -> None:
    job = await triple.enqueue(4)
    assert job is not None
    assert (job.queue, job.priority, job.max_attempts, job.args) == ("mail", 2, 3, (4,))
    other = await triple.options(delay=60, key="k").enqueue(number=5)
    assert other is not None
    assert (other.status, other.key, other.queue) == ("scheduled", "k", "mail")
    assert await triple.options(key="k").enqueue(5) is None
    assert repr(triple) == "<task tests.aio.test_tasks.triple>"


async def test_a_wrong_call_is_refused(bound: Werk) -> None:
    with pytest.raises(EnqueueError, match="cannot be called"):
        _ = await double.enqueue("a", "b")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def test_a_task_is_applied(bound: Werk) -> None:
    with working(bound, queues=["default", "mail"]):
        assert await double.apply(4) == 8
        assert await triple.apply(4) == 12
        assert await attempt.apply(5) == 5
        assert await double.apply_within(20, 4) == 8
        assert await double.apply_within(timedelta(seconds=20), number=4) == 8
        with pytest.raises(JobError, match="on purpose"):
            await fails.apply()
    with pytest.raises(JobTimeout):
        _ = await double.apply_within(0.05, 4)


def test_what_cannot_be_a_task_is_refused_where_it_is_written() -> None:
    with pytest.raises(EnqueueError, match="no option"):
        _ = tasks.task(prioritty=3)(double)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    with pytest.raises(EnqueueError, match="lambda"):
        _ = tasks.task(lambda: None)
