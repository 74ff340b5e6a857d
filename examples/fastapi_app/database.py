"""The table, the queue, and how both find the one database they share."""

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgwerk import embedded
from pgwerk.aio import Werk

werk = Werk(os.environ.get("DATABASE_URL") or "embedded://")


class Base(DeclarativeBase):
    pass


class Page(Base):
    __tablename__ = "page"

    id: Mapped[int] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(unique=True)
    status: Mapped[int | None]
    title: Mapped[str | None]
    fingerprint: Mapped[str | None]
    """Of the content, as it was last seen."""
    changes: Mapped[int] = mapped_column(default=0)
    """How often the fingerprint was another one than before."""
    looked_at: Mapped[datetime | None]
    job_id: Mapped[str | None]
    """The first look at it."""
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC).replace(tzinfo=None))


async def connect() -> psycopg.AsyncConnection[Any]:
    """Open a connection for SQLAlchemy; only here is an embedded server started, so importing starts nothing."""
    return await psycopg.AsyncConnection.connect(await asyncio.to_thread(embedded.resolve, werk.dsn))


_engines: dict[asyncio.AbstractEventLoop, AsyncEngine] = {}
"""Connections belong to the event loop that they were opened on; a server and a worker have one loop each."""


def sessions() -> async_sessionmaker[AsyncSession]:
    """What makes sessions, on this loop."""
    loop = asyncio.get_running_loop()
    if loop not in _engines:
        _engines[loop] = create_async_engine("postgresql+psycopg://", async_creator=connect, pool_pre_ping=True)
    return async_sessionmaker(_engines[loop], expire_on_commit=False)


async def session() -> AsyncIterator[AsyncSession]:
    """One session for each request, whose end rolls back what was not committed."""
    async with sessions()() as opened:
        yield opened


async def create_tables() -> None:
    """Create missing tables; several processes may start at the same time."""
    async with sessions()() as opened:
        await opened.execute(select(func.pg_advisory_xact_lock(7_301_955)))
        await opened.run_sync(lambda sync: Base.metadata.create_all(sync.connection()))
        await opened.commit()


async def dispose() -> None:
    """Close this loop's connections."""
    engine = _engines.pop(asyncio.get_running_loop(), None)
    if engine is not None:
        await engine.dispose()
