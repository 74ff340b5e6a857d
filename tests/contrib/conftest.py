"""Transactions of applications: the same questions asked through each library that brings its own connection."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pgwerk import Werk
from tests.fixtures.callers import CALLERS
from tests.fixtures.callers import Caller as Caller  # noqa: PLC0414  # it used to be here


@pytest.fixture
def werk(dsn: str, migrated: str) -> Iterator[Werk]:
    made = Werk(dsn, schema=migrated)
    made.connect()
    yield made
    made.close()


@pytest.fixture(params=list(CALLERS))
def caller(request: pytest.FixtureRequest, dsn: str, schema: str) -> Iterator[Caller]:
    """A transaction of each kind, with a table `things` of the application's own beside the queue."""
    with ExitStack() as stack:
        made = CALLERS[request.param](dsn, stack)
        made.execute(f"create schema if not exists {schema}")
        made.execute(f"create table {schema}.things (name text)")
        made.commit()
        yield made
        made.rollback()
