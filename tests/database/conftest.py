"""Fixtures of the tests that ask the tables: see tests/fixtures/run.py and builders.py."""

import pytest

from tests.database.builders import Desk
from tests.fixtures.run import Run


@pytest.fixture
def desk(run: Run) -> Desk:
    """Short words for what a test does to jobs."""
    return Desk(run)
