"""Creating the tables: concurrently, under odd names, with few rights; and refusing what is newer."""

import secrets
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import conninfo, sql

from pgwerk import Werk
from pgwerk._core.names import TABLES, Names
from pgwerk._core.operations import migrate
from pgwerk._core.schema import latest
from pgwerk._core.statements import schema as st
from pgwerk.errors import DatabaseError, SchemaVersionMismatch
from tests.database.builders import Desk
from tests.fixtures.database import drop_schema
from tests.fixtures.looking import Tables
from tests.fixtures.run import FACES, Run

pytestmark = pytest.mark.postgres  # the tables themselves

Role = Callable[[str], str]


@pytest.fixture
def role(dsn: str, pg: psycopg.Connection) -> Iterator[Role]:
    """Make a role with the given grants; the DSN to log in as it."""
    made = []

    def make(grants: str) -> str:
        name = f"r_{secrets.token_hex(4)}"
        made.append(name)
        pg.execute(f"create role {name} login password 'secret'".encode())
        for grant in filter(None, grants.split(";")):
            pg.execute(f"{grant} to {name}".encode())
        return conninfo.make_conninfo(dsn, user=name, password="secret")

    yield make
    for name in made:
        pg.execute(f"drop owned by {name} cascade; drop role {name}".encode())


def test_migrating_again_changes_nothing(executor_kind: str, dsn: str, schema: str) -> None:
    with FACES[executor_kind](dsn, Names(schema)) as face:
        assert face.run(migrate.version()) == 0
        with pytest.raises(SchemaVersionMismatch, match="werk migrate"):
            face.run(migrate.check())
        assert face.run(migrate.migrate())[0].startswith("0001_")
        assert face.run(migrate.migrate()) == []
        assert face.run(migrate.version()) == face.run(migrate.check()) == latest()


@pytest.mark.parametrize("one_prefix", [True, False])
def test_eight_first_migrations_at_once_all_succeed(
    executor_kind: str, dsn: str, schema: str, one_prefix: bool
) -> None:
    errors: list[BaseException] = []
    gate = threading.Barrier(8)

    def first(number: int) -> None:
        try:
            prefix = "_pgwerk" if one_prefix else f"app{number}"
            with FACES[executor_kind](dsn, Names(schema, prefix)) as face:
                face.run(migrate.version())
                gate.wait(20)
                face.run(migrate.migrate())
                assert face.run(migrate.check()) == latest()
        except BaseException as error:  # noqa: BLE001  # told to the test
            errors.append(error)

    threads = [threading.Thread(target=first, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_newer_tables_are_refused(run: Run, pg: psycopg.Connection) -> None:
    pg.execute(run.text("insert into {versions} (version, name) values (9999, 'future')").encode())
    for op in (migrate.check(), migrate.migrate()):
        with pytest.raises(SchemaVersionMismatch, match="9999"):
            run(op)
    app = Werk(run.dsn, schema=run.names.schema)
    with pytest.raises(SchemaVersionMismatch, match="Upgrade"):
        app.enqueue("app.work")
    app.close()


ODD = [
    "Mixed Case",
    'quo"te',
    "apo'strophe",
    "100%",
    "%s %(a)s",
    "{jobs}",
    "[jobs_key]",
    "sémantique 漢字",
    "select",
    "a.b",
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_schema_names_work_from_end_to_end(executor_kind: str, dsn: str, pg: psycopg.Connection, odd: str) -> None:
    name = f"{odd} {secrets.token_hex(3)}"
    names = Names(name, f"{odd[:12]}_x")
    try:
        with FACES[executor_kind](dsn, names) as face:
            face.run(migrate.migrate())
            desk = Desk(Run(face, dsn, names, Tables(pg, names)))
            parent = desk.put(group="g")
            child = desk.put(depends_on=parent)
            desk.live()
            desk.end(desk.claim()[0])
            desk.end(desk.claim()[0])
            assert desk.statuses(parent, child) == ["complete", "complete"]
            desk.sweep()
            face.run(st.drop_all())
    finally:
        drop_schema(dsn, name)


@pytest.mark.parametrize("public", ["public", ""])
def test_without_a_schema_names_are_unqualified(
    executor_kind: str, dsn: str, schema: str, pg: psycopg.Connection, public: str
) -> None:
    pg.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    own = conninfo.make_conninfo(dsn, options=f"-c search_path={schema}")
    with FACES[executor_kind](own, Names(public)) as face, psycopg.connect(own, autocommit=True) as look:
        face.run(migrate.migrate())
        assert face.run(migrate.check()) == latest()
        desk = Desk(Run(face, own, Names(public), Tables(look, Names(public))))
        desk.end(desk.take())
        tables = look.execute("select count(*) from pg_tables where schemaname = %s", [schema]).fetchone()
        assert tables == (len(TABLES) - 1,)


def test_two_installations_in_one_schema_do_not_touch_each_other(
    executor_kind: str, dsn: str, schema: str, pg: psycopg.Connection
) -> None:
    desks = []
    for prefix in ("one", "two"):
        names = Names(schema, prefix)
        with FACES[executor_kind](dsn, names) as face:
            face.run(migrate.migrate())
            desk = Desk(Run(face, dsn, names, Tables(pg, names)))
            desk.put(key="k")
            desks.append(desk)
    assert [desk.count("jobs") for desk in desks] == [1, 1]


def test_a_role_with_usage_and_create_on_an_existing_schema_can_migrate(
    executor_kind: str, schema: str, pg: psycopg.Connection, role: Role
) -> None:
    pg.execute(f"create schema {schema}".encode())
    dsn = role(f"grant usage, create on schema {schema}")
    with FACES[executor_kind](dsn, Names(schema)) as face:
        face.run(migrate.migrate())
        assert face.run(migrate.check()) == latest()


def test_a_role_that_may_not_create_is_told_what_it_needs(
    executor_kind: str, schema: str, pg: psycopg.Connection, role: Role
) -> None:
    pg.execute(f"create schema {schema}".encode())
    dsn = role(f"grant usage on schema {schema}")
    with FACES[executor_kind](dsn, Names(schema)) as face, pytest.raises(DatabaseError, match="USAGE and CREATE"):
        face.run(migrate.migrate())


def test_a_role_that_may_only_change_rows_can_do_everything_else(
    run: Run, schema: str, pg: psycopg.Connection, role: Role
) -> None:
    dsn = role(f"grant usage on schema {schema};grant select, insert, update, delete on all tables in schema {schema}")
    with FACES[run.kind](dsn, run.names) as face:
        desk = Desk(Run(face, dsn, run.names, Tables(pg, run.names)))
        desk.live()
        parent = desk.put(1, group="g", key="k", retry=2)
        child = desk.put(2, depends_on=parent)
        desk.end(desk.claim()[0])
        desk.end(desk.claim()[0])
        assert desk.statuses(parent, child) == ["complete", "complete"]
        desk.sweep()
        assert face.run(migrate.check()) == latest()
    app = Werk(dsn, schema=schema, auto_migrate=False)
    assert app.enqueue("app.work") is not None
    assert app.sweep() == []
    app.close()
    lazy = Werk(dsn, schema=schema)
    assert lazy.enqueue("app.work") is not None
    lazy.close()


def test_tables_of_workers_can_be_unlogged(executor_kind: str, dsn: str, schema: str, pg: psycopg.Connection) -> None:
    with FACES[executor_kind](dsn, Names(schema, ephemeral=True)) as face:
        face.run(migrate.migrate())
    kinds = pg.execute(
        "select relname, relpersistence from pg_class c join pg_namespace n on n.oid = relnamespace "
        "where nspname = %s and relkind = 'r'", [schema],
    ).fetchall()  # fmt: skip
    assert {name for name, kind in kinds if kind == "u"} == {"_pgwerk_worker", "_pgwerk_idle"}


def test_a_failed_migration_leaves_nothing_behind(
    executor_kind: str, dsn: str, schema: str, pg: psycopg.Connection
) -> None:
    pg.execute(f"create schema {schema}; create table {schema}._pgwerk_permits (a int)".encode())
    with FACES[executor_kind](dsn, Names(schema)) as face:
        with pytest.raises(DatabaseError):
            face.run(migrate.migrate())
        assert face.run(migrate.version()) == 0
    assert pg.execute("select count(*) from pg_tables where schemaname = %s", [schema]).fetchone() == (1,)
