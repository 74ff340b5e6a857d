"""The driver's connection behind whatever a caller of the asyncio app has: psycopg, SQLAlchemy or asyncpg."""

from typing import Any

from pgwerk._postgres.callers import is_async_psycopg, is_async_sqlalchemy, is_asyncpg, kind_of, refuse_synchronous
from pgwerk.errors import EnqueueError


async def usable_connection(conn: Any) -> Any:
    """Find the driver's connection of *conn*, or raise EnqueueError.

    Takes a psycopg AsyncConnection, a SQLAlchemy AsyncSession (scoped or not) or AsyncConnection, or an asyncpg
    connection.
    """
    refuse_synchronous(conn)
    found = await _driver_connection(conn) if is_async_sqlalchemy(conn) else conn
    if is_async_psycopg(found):
        return found
    if is_asyncpg(found):
        from pgwerk._postgres.foreign.asyncpg import AsyncpgConnection  # noqa: PLC0415  # only who has it needs it

        return AsyncpgConnection(found)
    raise EnqueueError(
        "_conn takes a psycopg AsyncConnection, a SQLAlchemy AsyncSession or AsyncConnection on psycopg 3 or asyncpg, "
        f"or an asyncpg connection, not {kind_of(found)}"
    )


async def _driver_connection(conn: Any) -> Any:
    """Unwrap SQLAlchemy's down to the driver's own connection, in a transaction that SQLAlchemy knows of."""
    if not hasattr(conn, "get_raw_connection"):  # a session
        conn = await conn.connection()
    if not conn.in_transaction():
        # Otherwise SQLAlchemy would not know that there is something to commit.
        await conn.begin()
    found = (await conn.get_raw_connection()).driver_connection
    if is_asyncpg(found) and not found.is_in_transaction():
        # SQLAlchemy begins a transaction of asyncpg's with the first statement that it sends itself.
        await conn.exec_driver_sql("select 1")
    return found
