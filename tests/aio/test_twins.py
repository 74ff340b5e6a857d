"""`app.aio` and `app.sync`: two faces of one app."""

import asyncio
import subprocess
import sys
import threading

import psycopg

import pgwerk
from pgwerk import WerkConfig, aio
from tests.aio import handlers
from tests.fixtures.inside import inside


async def test_the_twin_of_a_twin_is_the_original(dsn: str) -> None:
    plain = pgwerk.Werk(dsn)
    assert type(plain.aio) is aio.Werk
    assert plain.sync is plain
    assert plain.aio.aio is plain.aio
    assert plain.aio.sync is plain
    awaited = aio.Werk(dsn)
    assert type(awaited.sync) is pgwerk.Werk
    assert awaited.aio is awaited
    assert awaited.sync.aio is awaited
    assert awaited.sync is not plain


def test_threads_that_meet_get_the_same_twin(dsn: str) -> None:
    for _ in range(50):
        app = pgwerk.Werk(dsn)
        barrier = threading.Barrier(4)
        found: list[object] = []

        def ask(app: pgwerk.Werk, barrier: threading.Barrier, found: list[object]) -> None:
            _ = barrier.wait()
            found.append(app.aio)

        threads = [threading.Thread(target=ask, args=(app, barrier, found)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len({id(one) for one in found}) == 1


async def test_everything_but_connections_is_shared(dsn: str, schema: str) -> None:
    plain = pgwerk.Werk(
        dsn, schema=schema, prefix="_mine", config=WerkConfig(pool_size=3), serializer=pgwerk.TypedJSONSerializer(),
        listen_dsn=dsn, auto_migrate=False,
    )  # fmt: skip
    other = plain.aio
    assert plain._app is other._app
    for name in ("dsn", "schema", "prefix", "config", "serializer"):
        assert getattr(plain, name) is getattr(other, name), name
    told: list[str] = []
    other.on_startup(lambda: told.append("up"))
    plain.on_shutdown(lambda: told.append("down"))
    _ = plain.migrate()
    plain.connect()
    await other.connect()
    assert told == ["up"], "the first connect was that of either"
    await other.close()
    plain.close()
    assert told == ["up", "down"]


async def test_who_migrated_does_not_matter(dsn: str, schema: str, pg: psycopg.Connection) -> None:
    awaited = aio.Werk(dsn, schema=schema)
    _ = await awaited.enqueue(handlers.echo)
    seen = awaited._app.state.migrated
    assert seen
    job = await asyncio.to_thread(awaited.sync.enqueue, handlers.plain_echo, _priority=3)
    assert job is not None
    assert (await awaited.get_job(job)).priority == 3
    await awaited.close()
    assert inside(awaited.sync).backend._pool.idle == 0, "the original closes what was opened for it"


async def test_a_task_of_either_can_be_enqueued_by_the_other(dsn: str, schema: str) -> None:
    plain = pgwerk.Werk(dsn, schema=schema)
    send = plain.task(queue="mail", priority=4)(handlers.plain_echo)
    job = await plain.aio.enqueue(send, 5)
    assert job is not None
    assert (job.queue, job.priority, job.args) == ("mail", 4, (5,))
    receive = plain.aio.task(queue="other")(handlers.echo)
    other = await asyncio.to_thread(plain.enqueue, receive, 5)
    assert other is not None
    assert other.queue == "other"
    await plain.aio.close()
    plain.close()


def test_the_door_opens_only_when_somebody_goes_through_it() -> None:
    program = """
import sys
from pgwerk import Werk
app = Werk("postgresql://nowhere/x")
assert "pgwerk.aio.app" not in sys.modules
app.aio
assert "pgwerk.aio.app" in sys.modules
"""
    _ = subprocess.run([sys.executable, "-c", program], check=True)
    program = program.replace("from pgwerk import", "from pgwerk.aio import").replace("aio.app", "sync.app")
    _ = subprocess.run([sys.executable, "-c", program.replace("\napp.aio", "\napp.sync")], check=True)


def test_importing_the_package_imports_no_driver_and_no_loop() -> None:
    program = """
import sys
import pgwerk.aio
from pgwerk.aio import Job, Retry, JobError, WerkConfig
found = {"psycopg", "psycopg_pool", "asyncio", "asyncpg", "sqlalchemy"} & set(sys.modules)
assert not found, found
"""
    _ = subprocess.run([sys.executable, "-c", program], check=True)
