"""The app's own connections: never lost, never lent broken, never waited for without an end, whoever asks when."""

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgwerk import EnqueueParams, JobTimeout, SerializationError, Werk, WerkConfig, aio
from pgwerk._app.clock import new_id
from pgwerk._core.operation import Statement, Steps, nothing, operation, scalar, together
from tests.exactness import handlers
from tests.exactness.helpers import enqueued, in_a_fork
from tests.fixtures.inside import inside
from tests.fixtures.run import Run

ROOT = Path(__file__).resolve().parents[2]
ME = Statement("select pg_backend_pid()", {}, scalar, repeatable=True)


def ran(program: str, *args: str, seconds: float = 30.0) -> str:
    """Run a program of its own, which must end well and soon; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *args],
        capture_output=True, text=True, timeout=seconds, cwd=ROOT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout.strip()


def count(pg: psycopg.Connection, schema: str) -> int:
    row = pg.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(schema, "_pgwerk_jobs"))).fetchone()
    return int(row[0]) if row else 0


# Loops and cancellations --------------------------------------------------------------


@pytest.mark.parametrize("how", ["gather", "task group", "cancelled", "two loops", "loops in threads"])
def test_a_loop_ends_although_nobody_closed_the_app(dsn: str, schema: str, pg: psycopg.Connection, how: str) -> None:
    program = """
import asyncio, logging, sys, threading
from pgwerk.aio import Werk
logging.getLogger("psycopg").setLevel("ERROR")  # it tells of each cancellation that is cut off
app = Werk(sys.argv[1], schema=sys.argv[2])
def enqueue(number):
    return app.enqueue("tests.exactness.handlers.echo", number)
async def gathered():
    await asyncio.gather(*(enqueue(number) for number in range(20)))
async def grouped():
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(enqueue(number))
async def cancelled():
    await gathered()
    tasks = [asyncio.create_task(enqueue(number)) for number in range(20)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
match sys.argv[3]:
    case "gather":
        asyncio.run(gathered())
    case "task group":
        asyncio.run(grouped())
    case "cancelled":
        asyncio.run(cancelled())
    case "two loops":
        asyncio.run(gathered())
        asyncio.run(gathered())
    case _:
        asyncio.run(gathered())
        threads = [threading.Thread(target=lambda: asyncio.run(gathered())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
print("ended")
"""
    for _ in range(3):
        assert ran(program, dsn, schema, how) == "ended"
    assert count(pg, schema) >= 60


@pytest.mark.parametrize("seed", range(2))
def test_no_cancelled_call_costs_a_connection(dsn: str, schema: str, seed: int) -> None:
    """Cancelled twice, or by a timeout, at any moment, also while it waits for others or gives back."""
    draw = random.Random(seed)
    config = WerkConfig(pool_size=2)

    async def one(app: aio.Werk, number: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(draw.random() * 0.01):
                _ = await app.enqueue(handlers.echo, number)

    async def storm() -> None:
        app = aio.Werk(dsn, schema=schema, config=config)
        await app.connect()
        for _ in range(40):
            tasks = [asyncio.create_task(one(app, number)) for number in range(5)]
            for _ in range(draw.randint(0, 60)):
                await asyncio.sleep(0)
            for _ in range(2):
                for task in tasks:
                    _ = task.cancel()
                await asyncio.sleep(0)
            _ = await asyncio.wait(tasks)
        async with asyncio.timeout(10):
            _ = await asyncio.gather(*(app.enqueue(handlers.noop) for _ in range(10)))
        assert inside(app).backend._pool._out == 0
        await app.close()

    asyncio.run(storm())


# What an interruption or a failed pipeline leaves behind ----------------------------


@operation(atomic=False)
def batch(*statements: Statement[Any]) -> Steps[list[Any]]:
    return (yield from together(*statements))


FIRST = Statement("select 1", {}, nothing)
FAIL = Statement("select 1 / 0", {}, nothing)
LATER = Statement("select 'never reached'", {}, scalar)


@pytest.mark.parametrize("whose", ["pool", "caller"])
@pytest.mark.postgres
def test_statements_that_a_failed_pipeline_never_prepared_are_not_believed_in(run: Run, whose: str) -> None:
    face = run.face
    connection = face.connect(autocommit=True) if whose == "caller" else None
    for _ in range(8):  # psycopg prepares what is sent for the sixth time
        with pytest.raises(Exception, match="division by zero"):
            run(batch(FIRST, FAIL, LATER), connection)
    for _ in range(8):
        assert run(LATER, connection) == "never reached"
    if connection is not None:
        face.close(connection)


class Alarm(Exception):
    """What a signal handler of the application raises."""


@contextmanager
def alarms(act: Callable[[], Any], first: float, interval: float = 0.0) -> Iterator[None]:
    def handler(_number: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_globals.get("__name__", "").startswith("coverage"):
                # It would keep a lock for good.
                _ = signal.setitimer(signal.ITIMER_REAL, 0.001, interval)
                return
            frame = frame.f_back
        act()

    before = signal.signal(signal.SIGALRM, handler)
    _ = signal.setitimer(signal.ITIMER_REAL, first, interval)
    try:
        yield
    finally:
        _ = signal.setitimer(signal.ITIMER_REAL, 0)
        _ = signal.signal(signal.SIGALRM, before)


@pytest.mark.untraced
def test_calls_cut_off_by_a_signal_lose_no_connection_and_leave_none_broken(dsn: str, schema: str) -> None:
    # Inside a serializer, it is what the serializer raised.
    def cut() -> None:
        raise Alarm

    app = Werk(dsn, schema=schema, config=WerkConfig(pool_size=2))
    try:
        app.connect()
        draw = random.Random(1)
        for number in range(200):
            params = [EnqueueParams(handlers.echo, (number,)) for _ in range(3)]
            with suppress(Alarm, SerializationError), alarms(cut, 0.0002 + draw.random() * 0.004):
                _ = app.enqueue_many(params)
                _ = app.list_jobs(limit=1)
                time.sleep(0.005)
        assert inside(app).backend._pool._stock().slots.qsize() == 2
        for _ in range(20):
            assert len(app.enqueue_many([EnqueueParams(handlers.noop)] * 3)) == 3
    finally:
        app.close()


def test_ctrl_c_in_a_wait_leaves_a_pool_that_works(dsn: str, schema: str, pg: psycopg.Connection) -> None:
    def cut() -> None:
        raise KeyboardInterrupt

    app = Werk(dsn, schema=schema, config=WerkConfig(pool_size=1))
    try:
        app.connect()
        with psycopg.connect(dsn) as locker:
            _ = locker.execute(sql.SQL("lock table {}").format(sql.Identifier(schema, "_pgwerk_jobs")))
            for _ in range(3):
                with pytest.raises(KeyboardInterrupt), alarms(cut, 0.1):
                    _ = app.enqueue(handlers.noop)
        assert app.enqueue(handlers.noop).id
    finally:
        app.close()


# Forks ------------------------------------------------------------------------------


@pytest.mark.parametrize("face", ["sync", "aio"])
def test_threads_that_meet_at_first_use_after_a_fork_share_one_pool(dsn: str, schema: str, face: str) -> None:
    app = Werk(dsn, schema=schema, config=WerkConfig(pool_size=2))
    app.connect()
    if face == "aio":
        asyncio.run(app.aio.connect())

    def child() -> None:
        here = inside(app).backend._pool
        stocks, loops = [], []
        together_now = threading.Barrier(8)

        async def on_a_loop() -> None:
            found = inside(app.aio).backend._pool
            assert inside(app.aio).backend._pool is found
            loops.append(found)

        def use() -> None:
            _ = together_now.wait()
            if face == "sync":
                stocks.append(here._stock())
            else:
                asyncio.run(on_a_loop())

        sys.setswitchinterval(1e-6)
        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(stock) for stock in stocks}) == (1 if face == "sync" else 0)
        assert len({id(pool) for pool in loops}) == (8 if face == "aio" else 0)
        _ = enqueued(app.enqueue(handlers.noop))

    for _ in range(5):
        assert in_a_fork(child) == 0
    _ = enqueued(app.enqueue(handlers.noop))  # the parent's connections are still its own
    app.close()


# Signal handlers, finalisers, exit handlers -----------------------------------------


def test_ids_ascend_whatever_comes_in_between() -> None:
    made: list[str] = []
    inside: list[str] = []
    began = time.monotonic()
    with alarms(lambda: inside.append(new_id()), 0.0001, 0.0001):
        while time.monotonic() - began < 0.5:
            made.append(new_id())
    assert inside
    assert made == sorted(made)
    assert len({one[:18] for one in made + inside}) == len(made) + len(inside), "by time and sequence alone"


def test_a_signal_handler_may_enqueue_at_any_moment(dsn: str, schema: str, pg: psycopg.Connection) -> None:
    """Also while its thread holds the only connection of the pool, or is about to wait for it."""
    program = """
import random, signal, sys
import tests.exactness.handlers
from pgwerk import Werk, WerkConfig
app = Werk(sys.argv[1], schema=sys.argv[2], config=WerkConfig(pool_size=1))
app.connect()
done = []
def handler(*_):
    done.append(app.enqueue("tests.exactness.handlers.echo", "inside").id)
    signal.setitimer(signal.ITIMER_REAL, 0.0001 + random.random() * 0.004)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001)
outside = 0
while len(done) < 100:
    assert app.enqueue("tests.exactness.handlers.echo", "outside").id
    outside += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert app._runtime.backend._pool._stock().slots.qsize() == 1
print(len(done) + outside)
"""
    assert int(ran(program, dsn, schema, seconds=60)) == count(pg, schema)


def test_no_line_of_the_pool_or_the_clock_is_one_at_which_enqueueing_again_waits_for_itself(
    dsn: str, schema: str, pg: psycopg.Connection
) -> None:
    """As a signal handler would at the worst moments: once before each line that lending and returning consist of."""
    app = Werk(dsn, schema=schema, config=WerkConfig(pool_size=1))
    seen: set[tuple[str, int]] = set()
    longest = 0.0

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal longest
        if not frame.f_code.co_filename.endswith(("pgwerk/sync/pool.py", "pgwerk/_app/clock.py")):
            return None
        here = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and here not in seen:
            seen.add(here)
            began = time.monotonic()
            assert app.enqueue(handlers.noop).id  # not traced itself
            longest = max(longest, time.monotonic() - began)
        return trace

    before = sys.gettrace()
    outside = 0
    try:
        app.connect()
        known = -1
        while known < len(seen):
            known = len(seen)
            sys.settrace(trace)
            try:
                assert app.enqueue(handlers.noop).id
            finally:
                sys.settrace(before)
            outside += 1
        assert inside(app).backend._pool._stock().slots.qsize() == 1
        assert inside(app).backend._pool._stock().holders == {}
    finally:
        app.close()
    assert len(seen) > 40
    assert count(pg, schema) == len(seen) + outside
    assert longest < 5, "the pool waits for 10 s before it gives up"


def test_a_finaliser_may_enqueue(dsn: str, schema: str, pg: psycopg.Connection) -> None:
    program = """
import gc, sys
from pgwerk import Werk, WerkConfig
app = Werk(sys.argv[1], schema=sys.argv[2], config=WerkConfig(pool_size=1))
app.connect()
finalised = []
class Cyclic:
    def __init__(self):
        self.me = self
    def __del__(self):
        finalised.append(app.enqueue("tests.exactness.handlers.echo", "late").id)
import tests.exactness.handlers
gc.set_threshold(50)
enqueued = 0
while len(finalised) < 50:
    Cyclic()
    enqueued += app.enqueue("tests.exactness.handlers.echo", enqueued) is not None
Cyclic = None
gc.collect()
print(len(finalised) + enqueued)
"""
    assert int(ran(program, dsn, schema, seconds=60)) == count(pg, schema)


@pytest.mark.parametrize("used", ["before", "never"])
@pytest.mark.parametrize("face", ["sync", "aio"])
def test_exit_handlers_enqueue_whenever_they_were_registered(
    dsn: str, schema: str, pg: psycopg.Connection, face: str, used: str
) -> None:
    program = """
import asyncio, atexit, sys
import pgwerk, pgwerk.aio
dsn, schema, face, used = sys.argv[1:]
app = pgwerk.Werk(dsn, schema=schema) if face == "sync" else pgwerk.aio.Werk(dsn, schema=schema)
def enqueue(name):
    job = app.enqueue("tests.exactness.handlers.echo", name)
    return job if face == "sync" else asyncio.run(job)
atexit.register(lambda: print(enqueue("registered first").id))
if used == "before":
    print(enqueue("in the program").id)
atexit.register(lambda: print(enqueue("registered last").id))
"""
    ids = ran(program, dsn, schema, face, used).split()
    assert len(ids) == (3 if used == "before" else 2)
    assert count(pg, schema) == len(ids)


def test_enqueueing_and_waiting_need_no_new_thread(
    dsn: str, schema: str, monkeypatch: pytest.MonkeyPatch, pg: psycopg.Connection
) -> None:
    """As at the end of newer interpreters, which start none any more."""

    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    app = Werk(dsn, schema=schema)
    try:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        job = enqueued(app.enqueue(handlers.echo, 1))
        with pytest.raises(JobTimeout):
            _ = app.wait_for(job, timeout=0.2)
        assert inside(app).backend._pool.idle == 0, "nobody would close it"
    finally:
        app.close()
    assert count(pg, schema) == 1


def test_threads_that_still_run_at_exit_enqueue(dsn: str, schema: str, pg: psycopg.Connection) -> None:
    program = """
import atexit, sys, threading
from pgwerk import Werk
app = Werk(sys.argv[1], schema=sys.argv[2])
exiting = threading.Event()
def work():
    threading.main_thread().join()
    print(app.enqueue("tests.exactness.handlers.noop").id)
    exiting.set()
threading.Thread(target=work).start()
atexit.register(exiting.wait, 10)
"""
    assert len(ran(program, dsn, schema).split()) == 1
    assert count(pg, schema) == 1
