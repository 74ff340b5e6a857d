"""Fixtures of the tests that ask Postgres: see tests/fixtures/run.py and builders.py."""

import psycopg
import pytest

from tests.database.builders import Desk
from tests.fixtures.run import Run


@pytest.fixture
def desk(run: Run, pg: psycopg.Connection) -> Desk:
    """Short words for what a test does to jobs."""
    return Desk(run, pg)
