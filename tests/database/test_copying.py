"""Many jobs at once go by COPY where they can; whatever they hold, it is as if an INSERT had done it."""

from typing import Any

import psycopg
import psycopg.conninfo
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgwerk._core.operation import Statement
from pgwerk._core.operations.enqueue import CHUNK, NewJob
from pgwerk._core.procedures.enqueue import enqueue_all
from pgwerk._core.statements import copying
from pgwerk._core.statements.enqueue import insert_many
from pgwerk._memory.messages import WAKE
from pgwerk.errors import DatabaseError
from tests.database.builders import Desk, new
from tests.fixtures.run import FACES, Run

pytestmark = pytest.mark.every_executor


@pytest.fixture
def many(run: Run) -> Desk:
    return Desk(run)


def jobs(count: int = copying.LEAST, **options: Any) -> list[NewJob]:
    return [new(number, **options) for number in range(count)]


def copied(made: list[NewJob]) -> bool:
    statement: Statement[Any] = insert_many([job.values for job in made], always_tell=False)
    return statement.copy is not None


def rows(many: Desk, made: list[NewJob]) -> list[dict[str, Any]]:
    found = {str(row["id"]): row for row in (many.row(job.id) for job in made)}
    return [found[job.id] for job in made]


def test_plain_jobs_are_copied_and_have_the_columns_of_an_insert(many: Desk) -> None:
    made = jobs(queue="mail", priority=3, meta={"text": 'a\tb\n"c\\d" \\N \\. ä€'})
    assert copied(made)
    answers = many.send(made)
    by_insert = new(0, queue="mail", priority=3, meta={"text": 'a\tb\n"c\\d" \\N \\. ä€'})
    many.send([by_insert])
    reference = many.row(by_insert.id)
    different = {"id", "payload", "enqueued_at", "scheduled_at"}
    for job, answer, row in zip(made, answers, rows(many, made), strict=True):
        assert answer is not None
        assert (answer.id, answer.status, answer.enqueued_at) == (job.id, "queued", row["enqueued_at"])
        assert answer.scheduled_at == row["scheduled_at"]
        assert {k: v for k, v in row.items() if k not in different} == {
            k: v for k, v in reference.items() if k not in different
        }
    assert [row["payload"]["args"] for row in rows(many, made)] == [[number] for number in range(len(made))]


@pytest.mark.parametrize("options", [{"key": "k"}, {"delay": 5}, {"ttl": 60}])
def test_what_copy_cannot_do_is_inserted(options: dict[str, Any]) -> None:
    assert not copied([*jobs(), new(**options)])
    assert not copied(jobs(copying.LEAST - 1))
    assert not copied([*jobs(), new(priority=1)])


def test_workers_hear_of_each_queue_once(many: Desk) -> None:
    many.sql("insert into {idle} values (%s)", new().id)
    many.looking.listen(WAKE)
    made = [new(number, queue="other" if number % 2 else "default") for number in range(copying.LEAST)]
    assert copied(made)
    answers = many.send(made)
    assert all(answers)
    assert {row["queue"] for row in rows(many, made)} == {"default", "other"}
    heard = sorted(many.looking.heard())
    assert heard == ["qdefault", "qother"]


def test_a_second_walk_after_a_lost_answer_finds_its_rows(many: Desk) -> None:
    made = jobs()
    first, again = many.send(made), many.send(made)
    assert again == first
    assert many.one("select count(*) from {jobs}") == len(made)


def test_a_refused_row_leaves_nothing_behind(many: Desk) -> None:
    many.sql("alter table {jobs} add constraint no_13 check (payload -> 'args' ->> 0 <> '13')")
    try:
        with pytest.raises(DatabaseError, match="no_13"):
            many.send(jobs(CHUNK + copying.LEAST))
    finally:
        many.sql("alter table {jobs} drop constraint no_13")
    assert many.one("select count(*) from {jobs}") == 0
    assert all(many.send(jobs()))


def test_a_table_that_takes_no_copy_takes_an_insert(many: Desk, dsn: str) -> None:
    """COPY does not work under row-level security; an application may have turned it on for its own tables."""
    role = f"limited_{many.run.kind}"
    schema = many.run.names.schema
    many.sql(f"create role {role} login")
    try:
        many.sql(f'grant usage on schema "{schema}" to {role}')
        many.sql(f'grant all on all tables in schema "{schema}" to {role}')
        many.sql(f'grant all on all sequences in schema "{schema}" to {role}')
        many.sql("alter table {jobs} enable row level security")
        many.sql("create policy everything on {jobs} using (true)")
        limited = psycopg.conninfo.make_conninfo(dsn, options=f"-c role={role}")
        with FACES[many.run.kind](limited, many.run.names, pool_size=1) as face:
            assert all(face.perform(enqueue_all(jobs(), joined=False)))
        assert many.one("select count(*) from {jobs}") == copying.LEAST
    finally:
        many.sql("drop policy if exists everything on {jobs}")
        many.sql(f"drop owned by {role}")
        many.sql(f"drop role {role}")


def test_a_caller_s_transaction_is_left_to_an_insert(many: Desk) -> None:
    face = many.run.face
    connection = face.connect()
    try:
        made = jobs()
        face.perform(enqueue_all(made, joined=True), connection)
        assert many.one("select count(*) from {jobs}") == 0
        face.sql(connection, "commit")
        assert many.one("select count(*) from {jobs}") == len(made)
    finally:
        face.close(connection)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=20))
def test_any_text_arrives_as_it_is(many: Desk, texts: list[str]) -> None:
    made = [new(text, [text], meta={text: text}) for text in texts]
    made += [new("", [""], meta={"": ""}) for _ in range(copying.LEAST - len(made))]
    assert copied(made)
    many.send(made)
    found = rows(many, made)
    for text, row in zip(texts, found, strict=False):
        assert row["payload"]["args"] == [text, [text]]
        assert row["meta"] == {text: text}
