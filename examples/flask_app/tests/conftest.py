"""A database of its own for this run, made before the app is imported: DATABASE_URL says where it is."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg.conninfo import conninfo_to_dict

from pgwerk import ThreadWorker, Werk, embedded

ENDING = pytest.StashKey[contextlib.ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    stack = config.stash[ENDING] = contextlib.ExitStack()
    given = os.environ.get("PGWERK_TEST_DSN")
    server = given or stack.enter_context(embedded.temporary()).dsn
    name = f"flask_app_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    stack.callback(_drop, server, name)
    parts = {"port": "", "password": "", **conninfo_to_dict(server)}
    os.environ["DATABASE_URL"] = "postgresql://{user}:{password}@{host}:{port}/{name}".format(**parts, name=name)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[ENDING].close()


def _drop(server: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"drop database {name} with (force)".encode())


@pytest.fixture(scope="session")
def werk() -> Iterator[Werk]:
    from examples.flask_app.app import werk  # noqa: PLC0415  # DATABASE_URL is set by now

    yield werk
    werk.close()


@pytest.fixture
def app(werk: Werk) -> Iterator[Flask]:
    from examples.flask_app.app import app  # noqa: PLC0415
    from examples.flask_app.database import Base, create_tables, db  # noqa: PLC0415

    app.config["TESTING"] = True
    app.config["PROPAGATE_EXCEPTIONS"] = False
    with app.app_context():
        create_tables()
        werk.connect()
    yield app
    with app.app_context():
        Base.metadata.drop_all(db.engine)
        db.engine.dispose()
    for job in werk.list_jobs():
        werk.delete_job(job)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def work(werk: Werk) -> Callable[[], None]:
    """Run what is queued, in threads of this process."""
    return lambda: ThreadWorker(werk, concurrency=2, burst=True).run()
