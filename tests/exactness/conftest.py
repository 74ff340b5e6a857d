"""Fixtures for tests that break things on purpose: a look from outside, a server of one's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgwerk import Werk, WerkConfig
from pgwerk.embedded import Server
from tests.exactness.helpers import Outside, Start
from tests.fixtures.workers import QUICK, Notes, WorkerProcess


@pytest.fixture
def outside(app: Werk, pg: "psycopg.Connection[Any]") -> Outside:
    return Outside(app, pg)


@pytest.fixture
def served(server: Server, schema: str) -> Iterator[Werk]:
    """An app on a server that may be stopped and killed."""
    # Without the patience of producers, which these tests wait for: an outage is to be shorter than the liveness.
    app = Werk(server.dsn, schema=schema, config=WerkConfig(pool_timeout=0.1, **QUICK))  # type: ignore[arg-type]
    app.connect()
    yield app
    app.close()


@pytest.fixture
def served_worker(server: Server, schema: str, tmp_path: Path, notes: Notes) -> Iterator[Start]:
    """Worker processes of that server; their handlers' notes are on the other one, which stays."""
    made: list[WorkerProcess] = []

    def start(**settings: Any) -> WorkerProcess:
        made.append(
            WorkerProcess(settings.pop("dsn", server.dsn), schema, tmp_path / f"served-{len(made)}.log", **settings)
        )
        return made[-1]

    yield start
    for process in made:
        process.kill_tree()
