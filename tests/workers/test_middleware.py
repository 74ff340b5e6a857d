"""Middleware around jobs, in every kind of worker, on both faces, on Postgres and in memory."""

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import pgwerk
from pgwerk import AsyncWorker, ConfigError, Context, JobStatus, JobTimeout, Retry, ThreadWorker, Werk, aio, shield
from tests.fixtures.workers import Notes, burst, running
from tests.workers import handlers

Kind = Callable[..., Any]
KINDS = ["Worker", "ThreadWorker", "AsyncWorker", "ProcessWorker", "ForkWorker"]
in_variable: contextvars.ContextVar[str] = contextvars.ContextVar("in_variable", default="nothing")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """A class of workers."""
    found: Kind = getattr(pgwerk, request.param)
    return found


@pytest.fixture(params=[ThreadWorker, AsyncWorker])
def here(request: pytest.FixtureRequest) -> Kind:
    """A class of workers whose handlers run in this process."""
    found: Kind = request.param
    return found


@pytest.fixture
def memory() -> Iterator[Werk]:
    app = Werk.in_memory()
    yield app
    app.close()


def blocking(name: str) -> Callable[..., Any]:
    def middleware(ctx: Context, call_next: Callable[[], Any]) -> Any:
        return [name, call_next()]

    return middleware


def awaited(name: str) -> Callable[..., Any]:
    async def middleware(ctx: Context, call_next: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        return [name, await call_next()]

    return middleware


class Instance:
    """Middleware that is an object."""

    async def __call__(self, _: Context, call_next: Callable[[], Any]) -> Any:
        return ["object", await call_next()]


def plain(value: int) -> int:
    # A blocking handler may run a loop of its own, whatever is around it.
    return asyncio.run(coroutine(value))


async def coroutine(value: int) -> int:
    await asyncio.sleep(0.001)
    return value


def indirect(value: int) -> Any:
    return coroutine(value)


ORDERS = {"SASA": (blocking, awaited, blocking, awaited), "ASAS": (awaited, blocking, awaited, blocking),
          "AA": (awaited, awaited), "SS": (blocking, blocking)}  # fmt: skip


def around(value: Any, count: int) -> Any:
    for number in reversed(range(count)):
        value = [str(number), value]
    return value


@pytest.mark.parametrize("order", ["SASA", "ASAS"])
def test_the_first_registered_is_outermost_and_each_may_replace_the_result(app: Werk, kind: Kind, order: str) -> None:
    for number, make in enumerate(ORDERS[order]):
        app.middleware(make(str(number)))
    jobs = [app.enqueue(func, 7) for func in (plain, coroutine, indirect)]
    burst(app, kind, concurrency=1)
    assert [app.get_job(job).error for job in jobs] == [None] * 3
    assert [app.get_job(job).result for job in jobs] == [around(7, 4)] * 3


@pytest.mark.parametrize("order", ORDERS)
def test_in_memory_too(memory: Werk, here: Kind, order: str) -> None:
    for number, make in enumerate(ORDERS[order]):
        memory.middleware(make(str(number)))
    jobs = [memory.enqueue(func, 7) for func in (plain, coroutine, indirect) * 3]
    burst(memory, here, concurrency=2)
    assert [memory.get_job(job).result for job in jobs] == [around(7, len(order))] * 9


@pytest.mark.parametrize("order", ORDERS)
def test_a_job_that_runs_in_place_has_it_on_both_faces(memory: Werk, order: str) -> None:
    for number, make in enumerate(ORDERS[order]):
        memory.middleware(make(str(number)))
    results = [memory.enqueue(func, 7, _sync=True).result for func in (plain, coroutine, indirect)]

    async def beside() -> list[Any]:
        return [(await memory.aio.enqueue(func, 7, _sync=True)).result for func in (plain, coroutine, indirect)]

    assert results + asyncio.run(beside()) == [around(7, len(order))] * 6


def test_both_faces_register_for_the_same_app(memory: Werk, here: Kind) -> None:
    @memory.aio.middleware
    async def outer(ctx: Context, call_next: Callable[[], Any]) -> Any:
        return [ctx.job.function.rpartition(".")[2], await call_next()]

    memory.middleware(Instance())
    assert asyncio.iscoroutinefunction(outer), "the decorator returns the function"
    job = memory.enqueue(plain, 1)
    burst(memory, here)
    assert memory.get_job(job).result == ["plain", ["object", 1]]


def test_the_workers_of_asyncio_have_it(dsn: str, migrated: str) -> None:
    async def main() -> Any:
        async with aio.Werk(dsn, schema=migrated) as app:
            app.middleware(blocking("outer"))
            app.middleware(awaited("inner"))
            jobs = [await app.enqueue(func, 7) for func in (plain, coroutine)]
            await aio.AsyncWorker(app, burst=True).run()
            return [(await app.get_job(job)).result for job in jobs]

    assert asyncio.run(main()) == [["outer", ["inner", 7]]] * 2


def tagged(ctx: Context) -> Any:
    return getattr(ctx, "tag", None)


async def async_tagged(ctx: Context) -> Any:
    return getattr(ctx, "tag", None)


@pytest.mark.parametrize("handler", [tagged, async_tagged])
def test_it_gets_the_context_of_the_handler(memory: Werk, here: Kind, handler: Any) -> None:
    @memory.middleware
    def tag(ctx: Any, call_next: Callable[[], Any]) -> Any:
        ctx.tag = f"{ctx.job.attempts} {type(ctx.worker).__name__}"
        return call_next()

    job = memory.enqueue(handler)
    burst(memory, here)
    assert memory.get_job(job).result == f"1 {here.__name__}"


def read_variable() -> str:
    return in_variable.get()


async def async_read_variable() -> str:
    return in_variable.get()


@pytest.mark.parametrize("handler", [read_variable, async_read_variable])
@pytest.mark.parametrize("is_async", [False, True])
def test_context_variables_reach_the_handler(memory: Werk, here: Kind, handler: Any, is_async: bool) -> None:
    def setting(ctx: Context, call_next: Callable[[], Any]) -> Any:
        in_variable.set("something")
        return call_next()

    async def async_setting(ctx: Context, call_next: Callable[[], Any]) -> Any:
        in_variable.set("something")
        return await call_next()

    memory.middleware(async_setting if is_async else setting)
    job = memory.enqueue(handler)
    burst(memory, here)
    assert memory.get_job(job).result == "something"
    assert in_variable.get() == "nothing"


# Errors -----------------------------------------------------------------------


def failing(ctx: Context, call_next: Callable[[], Any]) -> Any:
    raise LookupError(f"no tenant after {call_next()}")


async def async_failing(ctx: Context, call_next: Callable[[], Any]) -> Any:
    raise LookupError(f"no tenant after {await call_next()}")


@pytest.mark.parametrize("middleware", [failing, async_failing])
def test_what_it_raises_is_the_failure_of_the_job(app: Werk, kind: Kind, middleware: Any) -> None:
    app.middleware(middleware)
    job = app.enqueue(plain, 7, _retry=Retry(2))
    burst(app, kind)
    failed = app.get_job(job)
    assert (failed.status, failed.attempts) == (JobStatus.FAILED, 2)
    assert "LookupError: no tenant after 7" in (failed.error or "")
    assert middleware.__name__ in (failed.error or "")


def broken() -> None:
    raise ValueError("broken")


async def async_broken() -> None:
    raise ValueError("broken")


@pytest.mark.parametrize("handler", [broken, async_broken])
@pytest.mark.parametrize("is_async", [False, True])
def test_it_sees_what_the_handler_raises(memory: Werk, here: Kind, handler: Any, is_async: bool) -> None:
    def saving(ctx: Context, call_next: Callable[[], Any]) -> Any:
        try:
            return call_next()
        except ValueError as error:
            return f"saved from {error}"

    async def async_saving(ctx: Context, call_next: Callable[[], Any]) -> Any:
        try:
            return await call_next()
        except ValueError as error:
            return f"saved from {error}"

    job = memory.enqueue(handler)
    memory.middleware(async_saving if is_async else saving)
    burst(memory, here)
    assert memory.get_job(job).result == "saved from broken"


def twice(ctx: Context, call_next: Callable[[], Any]) -> Any:
    return [call_next(), call_next()]


async def async_twice(ctx: Context, call_next: Callable[[], Any]) -> Any:
    return [await call_next(), await call_next()]


@pytest.mark.parametrize("middleware", [twice, async_twice])
def test_a_second_call_is_an_error(memory: Werk, here: Kind, middleware: Any) -> None:
    memory.middleware(middleware)
    jobs = [memory.enqueue(func, 7) for func in (plain, coroutine)]
    burst(memory, here)
    for job in jobs:
        error = memory.get_job(job).error or ""
        assert f"RuntimeError: the middleware {middleware.__name__} called call_next() a second time" in error


def test_it_need_not_call_the_handler(memory: Werk, here: Kind) -> None:
    seen: list[Any] = []
    memory.middleware(lambda *_: "skipped")
    memory.middleware(lambda _, call_next: seen.append(call_next()))
    job = memory.enqueue(plain, 7)
    burst(memory, here)
    assert (memory.get_job(job).result, seen) == ("skipped", [])


def test_a_hidden_coroutine_is_an_error_that_says_so(memory: Werk, here: Kind) -> None:
    hidden = awaited("hidden")
    memory.middleware(lambda *arguments: hidden(*arguments))  # noqa: PLW0108  # hides that it is asynchronous
    job = memory.enqueue(plain, 7)
    burst(memory, here)
    assert "returned a coroutine, and is not declared with async def" in (memory.get_job(job).error or "")


def test_hooks_are_outside_of_it(memory: Werk, here: Kind) -> None:
    seen: list[str] = []

    @memory.middleware
    def noting(ctx: Context, call_next: Callable[[], Any]) -> Any:
        seen.append("in")
        try:
            return call_next()
        finally:
            seen.append("out")

    worker = here(
        memory, burst=True, before_process=[lambda _: seen.append("before")],
        after_process=[lambda ctx: seen.append(f"after {ctx.exception!r}")],
    )  # fmt: skip
    worker.push_exception_handler(lambda _, error: seen.append(f"error {error!r}"))
    memory.enqueue(broken)
    worker.run()
    assert seen == ["before", "in", "out", "error ValueError('broken')", "after ValueError('broken')"]


# Interruptions ----------------------------------------------------------------


async def async_nap(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:  # noqa: ASYNC110  # in steps, as nap() does
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("handler", [handlers.nap, async_nap])
@pytest.mark.parametrize("order", ["S", "A", "SA", "AS", "SASA", "ASAS"])
def test_a_timeout_interrupts_the_handler_and_it_sees_that(app: Werk, here: Kind, order: str, handler: Any) -> None:
    seen: list[str] = []

    def seeing(ctx: Context, call_next: Callable[[], Any]) -> Any:
        try:
            return call_next()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    async def async_seeing(ctx: Context, call_next: Callable[[], Any]) -> Any:
        try:
            return await call_next()
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    for letter in order:
        app.middleware(seeing if letter == "S" else async_seeing)
    job = app.enqueue(handler, 30, _timeout=0.3)
    began = time.monotonic()
    burst(app, here)
    assert time.monotonic() - began < 15
    assert "timed out after 0.3 s" in (app.get_job(job).error or "")
    assert len(seen) == len(order)
    # What is interrupted on a loop is cancelled.
    assert set(seen) <= ({"JobTimeout"} if handler is handlers.nap else {"JobTimeout", "CancelledError"})


@pytest.mark.parametrize("handler", [plain, coroutine])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_timeout_interrupts_the_middleware_itself(
    app: Werk, here: Kind, handler: Any, when: str, is_async: bool
) -> None:
    def sleepy(ctx: Context, call_next: Callable[[], Any]) -> Any:
        if when == "before":
            handlers.nap(30)
        result = call_next()
        handlers.nap(30)
        return result

    async def async_sleepy(ctx: Context, call_next: Callable[[], Any]) -> Any:
        if when == "before":
            await async_nap(30)
        result = await call_next()
        await async_nap(30)
        return result

    app.middleware(async_sleepy if is_async else sleepy)
    job = app.enqueue(handler, 7, _timeout=0.3)
    began = time.monotonic()
    burst(app, here)
    assert time.monotonic() - began < 15
    assert "timed out after 0.3 s" in (app.get_job(job).error or "")


@pytest.mark.parametrize("handler", [handlers.nap, async_nap])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_shield_in_it_also_shields_the_handler(app: Werk, here: Kind, handler: Any, is_async: bool) -> None:
    seen: list[str] = []

    def shielding(ctx: Context, call_next: Callable[[], Any]) -> Any:
        with shield():
            call_next()
            seen.append("whole")
        handlers.nap(30)

    async def async_shielding(ctx: Context, call_next: Callable[[], Any]) -> Any:
        with shield():
            await call_next()
            seen.append("whole")
        await async_nap(30)

    app.middleware(async_shielding if is_async else shielding)
    job = app.enqueue(handler, 0.8, _timeout=0.2)
    began = time.monotonic()
    burst(app, here)
    assert time.monotonic() - began < 15
    assert seen == ["whole"]
    assert "timed out after 0.2 s" in (app.get_job(job).error or "")


def test_a_shutdown_gives_back_what_runs_inside_of_it(app: Werk, here: Kind, notes: Notes) -> None:
    app.middleware(blocking("outer"))
    app.middleware(awaited("inner"))
    job = app.enqueue(handlers.long_nap, "a", 30)
    with running(here, app, shutdown_timeout=0.1):
        notes.wait("start a")
    assert (app.get_job(job).status, app.get_job(job).attempts) == (JobStatus.QUEUED, 0)


# Refusals ---------------------------------------------------------------------


def generator(ctx: Context, call_next: Callable[[], Any]) -> Any:
    yield call_next()


async def async_generator(ctx: Context, call_next: Callable[[], Any]) -> Any:
    yield await call_next()


@pytest.mark.parametrize(
    ("func", "text"),
    [
        (generator, "generator function: instead of yield, call call_next"),
        (async_generator, "generator function: instead of yield"),
        (lambda _: None, r"called with two arguments, \(ctx, call_next\)"),
        (Instance, "is a class: register an instance"),
        ("not a function", "cannot be called"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_registered(memory: Werk, func: Any, text: str) -> None:
    for face in (memory, memory.aio):
        with pytest.raises(ConfigError, match=text):
            face.middleware(func)
    assert memory.enqueue(plain, 3, _sync=True).result == 3


def test_asynchronous_middleware_cannot_run_in_place_on_a_running_loop(memory: Werk) -> None:
    memory.middleware(awaited("outer"))

    async def main() -> Any:
        return memory.enqueue(plain, 3, _sync=True)

    assert "this thread runs an event loop. Enqueue with `app.aio`" in (asyncio.run(main()).error or "")


def test_a_timeout_is_what_a_blocking_middleware_catches(memory: Werk, here: Kind) -> None:
    @memory.middleware
    def catching(ctx: Context, call_next: Callable[[], Any]) -> Any:
        try:
            return call_next()
        except JobTimeout:
            return "half of it"

    job = memory.enqueue(async_nap, 30, _timeout=0.2)
    burst(memory, here)
    assert memory.get_job(job).result == "half of it"
