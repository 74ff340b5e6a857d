"""A caller's connection of any driver is read in a way that does not depend on how it is set."""

import asyncio
import decimal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import psycopg
import psycopg2
import psycopg2.extensions
import pytest
import sqlalchemy as sa
from psycopg.types.datetime import TimestamptzLoader
from psycopg.types.string import TextLoader

from pgwerk import EnqueueParams, JobStatus, SerializationError, Werk
from pgwerk import aio as pgwerk_aio
from tests.settings.conftest import Hostile

WORK = "tests.settings.handlers.work"
TEXT = "ünïcode €"
SETTINGS: dict[str, dict[str, str]] = {
    "german dates": {"datestyle": "German"},
    "date style and time zone": {"datestyle": "Postgres, DMY", "timezone": "Pacific/Kiritimati"},
    "serializable": {"default_transaction_isolation": "serializable"},
    "strings": {"standard_conforming_strings": "off"},
    "latin1 client": {"client_encoding": "LATIN1"},
    "ascii client": {"client_encoding": "SQL_ASCII"},
    "arrays and floats": {"extra_float_digits": "-15", "bytea_output": "escape", "intervalstyle": "sql_standard"},
    "search path": {"search_path": "pg_temp"},
}
Connect = Callable[[str, ExitStack], Any]


def with_psycopg(dsn: str, stack: ExitStack) -> Any:
    return stack.enter_context(psycopg.connect(dsn))


def with_odd_adapters(dsn: str, stack: ExitStack) -> Any:
    class Years(TimestamptzLoader):
        def load(self, data: Any) -> Any:  # noqa: ARG002  # called by psycopg
            raise AssertionError("the application's own loader was asked")

    class Shout(TextLoader):
        def load(self, data: Any) -> Any:
            return str(super().load(data)).upper()

    connection = with_psycopg(dsn, stack)
    connection.adapters.register_loader("timestamptz", Years)
    for name in ("text", "int4", "int8", "float8", "jsonb", "bool", "uuid"):
        connection.adapters.register_loader(name, Shout)
    return connection


def with_psycopg2(dsn: str, stack: ExitStack) -> Any:
    connection = psycopg2.connect(dsn)
    stack.callback(connection.close)
    return connection


def with_odd_types(dsn: str, stack: ExitStack) -> Any:
    connection = with_psycopg2(dsn, stack)
    shout = psycopg2.extensions.new_type((25, 1184, 3802), "SHOUT", lambda text, _: text and text.upper())
    psycopg2.extensions.register_type(shout, connection)
    return connection


def with_sqlalchemy(driver: str) -> Connect:
    def make(dsn: str, stack: ExitStack) -> Any:
        engine = sa.create_engine(dsn.replace("postgresql://", f"postgresql+{driver}://"))
        stack.callback(engine.dispose)
        return stack.enter_context(engine.connect())

    return make


DRIVERS: dict[str, Connect] = {
    "psycopg": with_psycopg,
    "psycopg with loaders": with_odd_adapters,
    "psycopg2": with_psycopg2,
    "psycopg2 with types": with_odd_types,
    "sqlalchemy psycopg": with_sqlalchemy("psycopg"),
    "sqlalchemy psycopg2": with_sqlalchemy("psycopg2"),
}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_each_form_of_enqueue(hostile: Hostile, stack: ExitStack, driver: str, setting: str) -> None:
    dsn = hostile(SETTINGS[setting])
    app = stack.enter_context(Werk(dsn))
    if (driver, setting) == ("sqlalchemy psycopg", "ascii client"):
        pytest.skip("SQLAlchemy itself does not connect")
    conn = DRIVERS[driver](dsn, stack)
    at = datetime(2077, 11, 5, 6, 7, 8, 123456, tzinfo=UTC)
    began = datetime.now(UTC) - timedelta(seconds=1)
    one = app.enqueue(WORK, TEXT, _conn=conn, _meta={"é": "€"}, _heartbeat=2.5)
    later = app.enqueue(WORK, _conn=conn, _at=at)
    assert one is not None
    assert later is not None
    many = app.enqueue_many(
        [EnqueueParams(WORK, (TEXT,), depends_on=one), EnqueueParams(WORK, (2,), meta={"a": "€"})], _conn=conn
    )
    # What runs inside is read through the connection, which Postgres lets have only what its encoding has.
    text = "plain" if "client" in setting else TEXT
    inside = app.enqueue(WORK, text, _conn=conn, _sync=True)
    assert inside is not None
    assert (inside.status, inside.result) == (JobStatus.COMPLETE, [[text], {}])
    conn.commit()
    for job in (one, later, *many):
        assert job is not None
        found = app.get_job(job)
        assert (found.status, found.scheduled_at, found.enqueued_at) == (job.status, job.scheduled_at, job.enqueued_at)
        assert (found.args, found.meta) == (job.args, job.meta)
    assert [job.status for job in (one, later, *many) if job] == ["queued", "scheduled", "waiting", "queued"]
    assert (app.get_job(one).args, app.get_job(one).meta) == ((TEXT,), {"é": "€"})
    assert app.get_job(later).scheduled_at == at
    assert one.enqueued_at is not None
    assert began < one.enqueued_at < datetime.now(UTC) + timedelta(seconds=1)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_key_that_the_connection_cannot_send_is_refused_before(
    hostile: Hostile, stack: ExitStack, driver: str, encoding: str
) -> None:
    if (driver, encoding) == ("psycopg", "SQL_ASCII"):
        pytest.skip("psycopg sends UTF-8 there, which is what the database wants")
    dsn = hostile({"client_encoding": encoding})
    app = stack.enter_context(Werk(dsn))
    conn = DRIVERS[driver](dsn, stack)
    with pytest.raises(SerializationError, match=r"the key holds '€'.*client_encoding"):
        app.enqueue(WORK, _conn=conn, _key="10 €")
    # Nothing was sent, so that the transaction goes on.
    assert app.enqueue(WORK, _conn=conn, _key="10") is not None
    conn.commit()
    assert len(app.list_jobs()) == 1


@pytest.mark.parametrize("setting", SETTINGS)
def test_asyncpg(hostile: Hostile, setting: str) -> None:
    async def main(dsn: str) -> None:
        conn = await asyncpg.connect(dsn)
        await conn.set_type_codec(
            "timestamptz", encoder=str, decoder=lambda _: decimal.Decimal("NaN"), schema="pg_catalog"
        )
        async with pgwerk_aio.Werk(dsn) as app:
            async with conn.transaction():
                one = await app.enqueue(WORK, TEXT, _conn=conn)
                assert one is not None
                many = await app.enqueue_many(
                    [EnqueueParams(WORK, depends_on=one), EnqueueParams(WORK, (1,))], _conn=conn
                )
            for job in (one, *many):
                assert job is not None
                found = await app.get_job(job)
                assert (found.status, found.scheduled_at) == (job.status, job.scheduled_at)
                assert found.args == job.args
        await conn.close()

    asyncio.run(main(hostile(SETTINGS[setting])))


@pytest.mark.parametrize("setting", SETTINGS)
def test_async_psycopg(hostile: Hostile, setting: str) -> None:
    async def main(dsn: str) -> None:
        async with pgwerk_aio.Werk(dsn) as app, await psycopg.AsyncConnection.connect(dsn) as conn:
            one = await app.enqueue(WORK, TEXT, _conn=conn)
            assert one is not None
            (two,) = await app.enqueue_many([EnqueueParams(WORK, (TEXT,), depends_on=one)], _conn=conn)
            await conn.commit()
            for job in (one, two):
                assert job is not None
                found = await app.get_job(job)
                assert (found.status, found.scheduled_at) == (job.status, job.scheduled_at)
                assert found.args == (TEXT,)

    asyncio.run(main(hostile(SETTINGS[setting])))
