"""The tables, the queue, and how both find the one database they share."""

import os
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import JSON, func, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgwerk import Werk, embedded

werk = Werk(os.environ.get("DATABASE_URL") or "embedded://")


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(metadata=Base.metadata)


class Report(Base):
    __tablename__ = "report"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Made with the form: submitting a form twice gives one report."""
    title: Mapped[str]
    currency: Mapped[str]
    sales: Mapped[str]
    """CSV as it was pasted: product, amount."""
    totals: Mapped[dict[str, str] | None] = mapped_column(JSON)
    """Euros by product; the work of the job."""
    job_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))


class Rate(Base):
    __tablename__ = "rate"

    currency: Mapped[str] = mapped_column(primary_key=True)
    euros: Mapped[Decimal]


def connect() -> psycopg.Connection[Any]:
    """Open a connection for SQLAlchemy; only here is an embedded server started, so importing starts nothing."""
    return psycopg.connect(embedded.resolve(werk.dsn))


def create_tables() -> None:
    """Create missing tables; several processes may start at the same time."""
    with db.engine.begin() as connection:
        connection.execute(select(func.pg_advisory_xact_lock(7_301_954)))
        Base.metadata.create_all(connection)
        if not connection.scalar(select(func.count()).select_from(Rate)):
            known = [{"currency": "EUR", "euros": Decimal(1)}, {"currency": "USD", "euros": Decimal("0.9")}]
            connection.execute(insert(Rate), known)
