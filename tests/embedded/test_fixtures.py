"""The fixtures that every database test relies on."""

import time

import psycopg
import pytest

from tests.fixtures.chain import open_database
from tests.fixtures.database import drop_schema


def test_what_is_asked_for_is_used_or_refused() -> None:
    with open_database({"PGWERK_TEST_DSN": "postgresql://there"}) as database:
        assert (database.dsn, database.origin) == ("postgresql://there", "PGWERK_TEST_DSN")
    nowhere = {"DOCKER_HOST": "unix:///nowhere", "PATH": ""}
    asked = open_database(nowhere | {"PGWERK_TEST_IMAGE": "postgres:14"})
    with pytest.raises(pytest.UsageError, match=r"postgres:14, but no Docker"), asked:
        pass
    nothing = open_database(nowhere | {"PG_BIN": "/nowhere"})
    with pytest.raises(pytest.UsageError, match=r"need Postgres.*PG_BIN=/nowhere"), nothing:
        pass


def test_a_schema_is_the_tests_own(schema: str, pg: psycopg.Connection) -> None:
    assert schema.isidentifier()
    row = pg.execute("SELECT count(*) FROM pg_namespace WHERE nspname = %s", [schema]).fetchone()
    assert row == (0,)


def test_a_hung_connection_does_not_hang_the_run(dsn: str, pg: psycopg.Connection) -> None:
    with psycopg.connect(dsn) as hung, psycopg.connect(dsn) as other:
        hung.execute("CREATE SCHEMA t_hung")
        hung.execute("CREATE TABLE t_hung.busy (id int)")
        hung.commit()
        hung.execute("LOCK TABLE t_hung.busy")
        other.execute("SELECT 1")
        started = time.monotonic()
        drop_schema(dsn, "t_hung")
        assert time.monotonic() - started < 30
        assert pg.execute("SELECT to_regnamespace('t_hung')").fetchone() == (None,)
        assert other.execute("SELECT 1").fetchone() == (1,), "the innocent stay connected"
        hung.close()
