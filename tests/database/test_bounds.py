"""What SQL may put into the tables: bounds that the database holds, and old rows that were outside of them."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgwerk._core.names import Names
from pgwerk._core.operations import migrate
from pgwerk._core.schema import migrations
from tests.database.builders import Desk
from tests.fixtures.looking import Tables
from tests.fixtures.run import FACES, Run

OUTSIDE = [
    ("scheduled_at", "'-infinity'"), ("scheduled_at", "'infinity'"), ("scheduled_at", "'0044-03-15 BC'"),
    ("scheduled_at", "'12000-01-01'"), ("enqueued_at", "'infinity'"), ("expires_at", "'-infinity'"),
    ("started_at", "'294275-12-31'"), ("completed_at", "'4700-01-01 BC'"), ("touched_at", "'infinity'"),
    ("attempts", "2147483647"), ("attempts", "-2147483648"), ("max_attempts", "2147483647"), ("max_attempts", "-1"),
    ("result_ttl", "'infinity'"), ("failure_ttl", "'NaN'"), ("failure_ttl", "-1e300"), ("failure_ttl", "1e300"),
    ("on_success_timeout", "'infinity'"), ("on_failure_timeout", "'infinity'"), ("on_stopped_timeout", "'NaN'"),
    ("repeat_interval_secs", "'infinity'"), ("queue", "repeat('q', 3200)"), ("function", "repeat('f', 5000000)"),
    ("on_failure", "repeat('f', 8000)"), ("group_key", "''"), ("blocked", "true"),
]  # fmt: skip
"""(column, SQL): each of these rows stopped a worker, a sweep or a list for all."""
REFUSED_BEFORE = [
    ("ttl", "'infinity'"), ("timeout_secs", "'NaN'"), ("heartbeat_secs", "-1"), ("wait_delay", "1e300"),
    ("group_limit", "0"), ("group_key", "repeat('g', 1025)"), ("failure_mode", "'burn'"), ("status", "'done'"),
]  # fmt: skip


def insert(column: str, value: str) -> str:
    values = {"function": "'app.work'", column: value}
    return f"insert into {{jobs}} ({', '.join(values)}) values ({', '.join(values.values())})"


@pytest.mark.parametrize(("column", "value"), OUTSIDE + REFUSED_BEFORE)
@pytest.mark.parametrize("executor_kind", ["sync"], indirect=True)
def test_sql_is_told_at_once(desk: Desk, column: str, value: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=r"jobs_(bounds|sane|failure_mode|status)"):
        desk.sql(insert(column, value))


@pytest.mark.parametrize(
    ("column", "value"),
    [("scheduled_at", "'0002-01-01Z'"), ("scheduled_at", "'9900-01-01Z'"), ("queue", "repeat('q', 1024)"),
     ("attempts", "1000000000"), ("result_ttl", "1e9"), ("failure_ttl", "0"), ("priority", "-32768")],
)  # fmt: skip
@pytest.mark.parametrize("executor_kind", ["sync"], indirect=True)
def test_what_is_just_inside_is_taken(desk: Desk, column: str, value: str) -> None:
    desk.sql(f"insert into {{jobs}} (function, {column}, ttl) values ('app.work', {value}, 1e9)")
    desk.sweep()
    assert desk.count("jobs") == 1


@pytest.fixture
def old(dsn: str, schema: str, pg: psycopg.Connection[Any]) -> Callable[[str], Any]:
    """An installation of before the bounds, and a way to run SQL in it."""
    names = Names(schema)
    script = "create schema {schema};" + "".join(one.sql for one in migrations() if one.version < 3)
    pg.execute(names.render(script, with_params=False).encode())
    versions = "insert into {versions} (version, name) select n, 'old' from generate_series(1, 2) n"
    pg.execute(names.render(versions, with_params=False).encode())
    return lambda text: pg.execute(names.render(text, with_params=False).encode())


def test_rows_of_before_are_brought_inside(dsn: str, schema: str, old: Callable[[str], Any]) -> None:
    for column, value in OUTSIDE:
        old(insert(column, value))
        # One that was right is left as it was.
        old("insert into {jobs} (function, queue, key) values ('app.right', 'right', gen_random_uuid()::text)")
    before = old("select j::text from {jobs} j where queue = 'right' order by id").fetchall()
    with FACES["sync"](dsn, Names(schema)) as face:
        assert "0003_bounds" in face.run(migrate.migrate())
        with psycopg.connect(dsn, autocommit=True) as pg:
            desk = Desk(Run(face, dsn, Names(schema), Tables(pg, Names(schema))))
            assert desk.sql("select j::text from {jobs} j where queue = 'right' order by id") == before
            assert desk.count("jobs") == 2 * len(OUTSIDE)
            assert desk.one("select octet_length(queue) from {jobs} where queue like 'qqq%%'") == 255
            desk.sweep()
            assert len(desk.claim(500, "right")) == len(OUTSIDE)


def test_an_installation_under_an_odd_name_gets_its_index(dsn: str, schema: str, pg: psycopg.Connection[Any]) -> None:
    names = Names(schema, 'it\'s "odd" 50%')
    with FACES["sync"](dsn, names) as face:
        face.run(migrate.migrate())
    found = pg.execute("select indexdef from pg_indexes where schemaname = %s and indexname like %s",
                       [schema, "%jobs_expires"]).fetchall()  # fmt: skip
    assert len(found) == 1
    assert "(expires_at, id)" in found[0][0]
