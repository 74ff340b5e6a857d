"""Statements that are prepared by us: whatever is sent and whatever happens, as if a cursor had done it."""

import math
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgwerk._core.names import Names
from pgwerk._core.operation import Rows, Statement, Steps, operation
from pgwerk._postgres.prepared import USES
from pgwerk.errors import DatabaseError, SerializationError
from tests.fixtures.run import FACES, AioFace, SyncFace

SQL = "select %(a)s::text, %(b)s::text, %(a)s::text || '%%', (%(n)s::float8)::text, (%(t)s::boolean)::text"
PREPARED: Statement[Rows] = Statement("select name from pg_prepared_statements where name like '\\_werk%'", {}, list)


def ask(a: Any = "a", b: Any = None, n: Any = 1, t: Any = True, sql: str = SQL) -> Statement[Rows]:
    return Statement(sql, {"a": a, "b": b, "n": n, "t": t}, list, texts=True)


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest, dsn: str) -> Iterator[SyncFace | AioFace]:
    with FACES[request.param](dsn, Names("public"), pool_size=1) as face:
        yield face


def prepare(face: SyncFace | AioFace, statement: Statement[Rows]) -> None:
    before = face.run(PREPARED)
    for _ in range(USES):
        face.run(statement)
    assert len(face.run(PREPARED)) == len(before) + 1


@pytest.mark.parametrize("values", [
    {"a": "", "b": "ä€\U0001f600 %s %% \\ ' \" $1"},
    {"a": None, "t": False},
    {"n": -(2**62)},
    {"n": 1.5e300},
    {"n": math.inf},
    {"n": True},
])  # fmt: skip
def test_what_is_asked_is_answered_alike(face: SyncFace | AioFace, values: dict[str, Any]) -> None:
    if isinstance(values.get("n"), bool):
        with pytest.raises(DatabaseError, match="cannot cast"):
            face.run(ask(**values))
        return
    first = face.run(ask(**values))
    prepare(face, ask())
    assert face.run(ask(**values)) == first


def test_what_is_not_plain_goes_by_a_cursor(face: SyncFace | AioFace) -> None:
    class Name(str):
        __slots__ = ()

    prepare(face, ask())
    assert face.run(ask(Name("x"), ["y"], sql=SQL.replace("%(b)s::text", "(%(b)s::text[])[1]"))) == [
        ("x", "y", "x%", "1", "true")
    ]
    for bad in ("a\0b", "\ud800"):
        with pytest.raises((SerializationError, DatabaseError, UnicodeEncodeError)):
            face.run(ask(bad))
        # The connection is as good as before.
        assert face.run(ask())[0][0] == "a"


def test_a_refused_value_is_the_same_error_and_costs_no_connection(face: SyncFace | AioFace) -> None:
    sql = "select (%(a)s::integer)::text, %(b)s::text, %(n)s::float8::text, %(t)s::boolean::text"
    with pytest.raises(SerializationError, match="invalid input syntax for type integer") as first:
        face.run(ask("x", sql=sql))
    prepare(face, ask("1", sql=sql))
    pid = face.run(Statement("select pg_backend_pid()", {}, list))
    with pytest.raises(SerializationError) as again:
        face.run(ask("x", sql=sql))
    assert str(again.value) == str(first.value)
    assert face.run(Statement("select pg_backend_pid()", {}, list)) == pid


def test_what_others_did_to_the_session_or_the_table_is_survived(
    face: SyncFace | AioFace, pg: psycopg.Connection
) -> None:
    name = f"shape_{face.kind}"
    statement: Statement[Rows] = Statement(
        f"select t.* from {name} t where x = %(a)s::text", {"a": "1"}, list, texts=True
    )
    pg.execute(f"create table public.{name} (x text)".encode())
    try:
        pg.execute(f"insert into public.{name} values ('1')".encode())
        prepare(face, statement)
        assert face.run(statement) == [("1",)]
        pg.execute(f"alter table public.{name} add column y text default 'new'".encode())
        assert face.run(statement) == [("1", "new")]
        prepare(face, ask())
        face.run(Statement("deallocate all", {}, list))
        assert face.run(ask())[0][0] == "a"
        assert face.run(statement) == [("1", "new")]
    finally:
        pg.execute(f"drop table public.{name}".encode())


def test_a_connection_that_is_lost_is_replaced(face: SyncFace | AioFace, pg: psycopg.Connection) -> None:
    statement = ask()
    statement.repeatable = True
    prepare(face, statement)
    ((pid,),) = face.run(Statement("select pg_backend_pid()", {}, list))
    pg.execute("select pg_terminate_backend(%s, 5000)", [pid])
    assert face.run(statement)[0][0] == "a"
    assert face.run(Statement("select pg_backend_pid()", {}, list)) != [(pid,)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))),
    number=st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)),
)
def test_any_value_arrives_as_a_cursor_sends_it(face: SyncFace | AioFace, text: str | None, number: float) -> None:
    sent = ask(text, text, number, number > 0)
    for _ in range(USES):
        face.run(ask())
    direct = face.run(sent)
    sent.texts = False
    assert direct == face.run(sent)


@operation()
def asking_within_a_transaction() -> Steps[Rows]:
    return (yield from ask())


def test_what_is_gone_is_not_missed_within_a_transaction(face: SyncFace | AioFace) -> None:
    prepare(face, ask())
    face.run(Statement("deallocate all", {}, list))  # as psycopg does after a rollback
    assert face.run(asking_within_a_transaction()) == face.run(ask())
