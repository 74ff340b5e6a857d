"""Enqueueing in a transaction of the caller's: it exists if that commits, and the connection is left as it was."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row, tuple_row

from pgwerk import Werk
from pgwerk._core.options import EnqueueParams
from pgwerk._core.procedures.enqueue import enqueue_all
from pgwerk.errors import EnqueueError, SerializationError
from tests.database.builders import Desk, new
from tests.fixtures.run import AioFace, Run

pytestmark = pytest.mark.every_executor

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "autocommit": {"autocommit": True},
    "dict rows": {"row_factory": dict_row},
    "client cursor": {"cursor_factory": psycopg.ClientCursor},
    "never prepared": {"prepare_threshold": None},
    "prepared at once": {"prepare_threshold": 0},
}
AIO_CURSORS = {psycopg.ClientCursor: psycopg.AsyncClientCursor}


class Caller:
    """A connection of a caller's, sync or async."""

    def __init__(self, run: Run, **kwargs: Any) -> None:
        self.run = run
        self.face = run.face
        if isinstance(run.face, AioFace) and "cursor_factory" in kwargs:
            kwargs["cursor_factory"] = AIO_CURSORS[kwargs["cursor_factory"]]
        self.connection = self.face.connect(**kwargs)

    def state(self) -> tuple[Any, ...]:
        c = self.connection
        return (c.autocommit, c.row_factory, c.cursor_factory, c.prepare_threshold, c.isolation_level, c.closed)

    @property
    def status(self) -> str:
        return psycopg.pq.TransactionStatus(self.connection.info.transaction_status).name

    def sql(self, text: str) -> Any:
        return self.face.sql(self.connection, text)

    def send(self, *orders: Any) -> list[Any]:
        return self.run.perform(enqueue_all(orders, joined=True), self.connection)

    def do(self, name: str) -> None:
        """Commit or roll back."""
        call = getattr(self.connection, name)
        if isinstance(self.face, AioFace):
            self.face.wait(call())
        else:
            call()

    def enter(self, context: Any) -> None:
        if isinstance(self.face, AioFace):
            self.face.wait(context.__aenter__())
        else:
            context.__enter__()

    def leave(self, context: Any) -> None:
        if isinstance(self.face, AioFace):
            self.face.wait(context.__aexit__(None, None, None))
        else:
            context.__exit__(None, None, None)


@pytest.fixture
def caller(run: Run) -> Iterator[Callable[..., Caller]]:
    made: list[Caller] = []

    def make(**kwargs: Any) -> Caller:
        made.append(Caller(run, **kwargs))
        return made[-1]

    yield make
    for one in made:
        run.face.close(one.connection)


KIND = pytest.mark.parametrize("kind", KINDS)


@KIND
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_job_exists_if_and_only_if_the_callers_transaction_commits(
    desk: Desk, caller: Callable[..., Caller], kind: str, end: str
) -> None:
    one = caller(**KINDS[kind])
    before = one.state()
    parent = desk.put(queue="elsewhere")
    if one.connection.autocommit:
        one.sql("begin")
    one.sql("create temporary table mine (a int)")
    assert None not in one.send(new(1))
    assert None not in one.send(new(2), new(3, depends_on=parent))
    assert one.status == "INTRANS"
    assert desk.count("jobs") == 1
    one.do(end)
    assert one.status == "IDLE"
    assert one.state() == before
    assert desk.count("jobs") == (4 if end == "commit" else 1)
    assert desk.count("job_deps") == (1 if end == "commit" else 0)


@pytest.mark.parametrize("kind", ["autocommit"])
def test_in_autocommit_each_enqueue_commits_by_itself(desk: Desk, caller: Callable[..., Caller], kind: str) -> None:
    one = caller(**KINDS[kind])
    one.send(new(1))
    one.send(new(2), new(3))
    assert one.status == "IDLE"
    assert desk.count("jobs") == 3


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("ends_well", [True, False])
def test_inside_a_transaction_block_of_the_callers(
    desk: Desk, caller: Callable[..., Caller], autocommit: bool, ends_well: bool
) -> None:
    one = caller(autocommit=autocommit)
    block = one.connection.transaction(force_rollback=not ends_well)
    one.enter(block)
    one.send(new(1))
    one.send(new(2), new(3))
    assert one.status == "INTRANS"
    assert desk.count("jobs") == 0
    one.leave(block)
    assert one.status == "IDLE"
    assert desk.count("jobs") == (3 if ends_well else 0)


def test_a_savepoint_of_the_callers_takes_its_jobs_along(desk: Desk, caller: Callable[..., Caller]) -> None:
    one = caller()
    kept = new(1)
    one.send(kept)
    inner = one.connection.transaction(force_rollback=True)
    one.enter(inner)
    one.send(new(2), new(3))
    one.leave(inner)
    one.do("commit")
    assert desk.sql("select id::text from {jobs}") == [(kept.id,)]


@pytest.mark.parametrize("autocommit", [False, True])
def test_inside_a_pipeline_of_the_callers(desk: Desk, caller: Callable[..., Caller], autocommit: bool) -> None:
    one = caller(autocommit=autocommit)
    parent = desk.put(queue="elsewhere")
    pipeline = one.connection.pipeline()
    one.enter(pipeline)
    (first,) = one.send(new(1, key="k"))
    assert first is not None
    assert one.send(new(2, key="k")) == [None]
    assert None not in one.send(new(3), new(4, depends_on=parent))
    with pytest.raises(EnqueueError):
        one.send(new(5, depends_on=new().id))
    one.leave(pipeline)
    if not autocommit:
        assert desk.count("jobs") == 1
        one.do("commit")
    assert desk.count("jobs") == 4
    assert one.status == "IDLE"


@KIND
def test_a_duplicate_key_is_none_and_does_not_abort_the_transaction(
    desk: Desk, caller: Callable[..., Caller], kind: str
) -> None:
    one = caller(**KINDS[kind])
    desk.put(1, key="k")
    if one.connection.autocommit:
        one.sql("begin")
    assert one.send(new(2, key="k")) == [None]
    (fresh, again) = one.send(new(3, key="other"), new(4, key="k"))
    assert fresh is not None
    assert again is None
    assert one.status == "INTRANS"
    one.do("commit")
    assert desk.count("jobs") == 2


@pytest.mark.parametrize("autocommit", [False, True])
def test_an_unknown_dependency_leaves_nothing_behind_and_the_transaction_usable(
    desk: Desk, caller: Callable[..., Caller], autocommit: bool
) -> None:
    one = caller(autocommit=autocommit)
    one.sql("begin") if autocommit else one.sql("select 1")
    with pytest.raises(EnqueueError, match="does not exist"):
        one.send(new(1), new(2, depends_on=new().id))
    assert one.status == "INTRANS"
    one.send(new(3))
    one.do("commit")
    assert desk.count("jobs") == 1


def test_a_parent_of_the_same_transaction_is_known(desk: Desk, caller: Callable[..., Caller]) -> None:
    one = caller()
    parent = new(1)
    one.send(parent)
    child = new(2, depends_on=parent.id)
    one.send(child)
    one.do("commit")
    assert desk.statuses(parent.id, child.id) == ["queued", "waiting"]
    desk.end(desk.claim()[0])
    assert desk.status(child.id) == "queued"


def test_a_job_of_a_transaction_that_began_long_ago_is_queued_not_scheduled(
    desk: Desk, caller: Callable[..., Caller]
) -> None:
    one = caller()
    one.sql("select pg_sleep(0.1)")
    done = desk.take()
    desk.end(done)
    free, child = new(1), new(2, depends_on=done.job.id)
    one.send(free)
    one.send(child)
    one.do("commit")
    assert desk.statuses(free.id, child.id) == ["queued", "queued"]
    assert len(desk.claim()) == 2


def test_what_postgres_refuses_is_the_callers_to_roll_back(desk: Desk, caller: Callable[..., Caller]) -> None:
    one = caller()
    bad = new(1)
    bad.values["payload"] = '{"args": ["\\u0000"]}'
    with pytest.raises(SerializationError):
        one.send(bad)
    assert one.status == "INERROR"
    one.do("rollback")
    one.send(new(2))
    one.do("commit")
    assert desk.count("jobs") == 1


def test_a_serializable_transaction_of_the_callers_is_joined(desk: Desk, caller: Callable[..., Caller]) -> None:
    one = caller()
    one.sql("set transaction isolation level serializable")
    one.send(new(1))
    assert one.connection.isolation_level is None
    one.do("commit")
    assert desk.count("jobs") == 1


# Through the app ------------------------------------------------------------------


SYNC = pytest.mark.parametrize("executor_kind", ["sync"], indirect=True)


@pytest.fixture
def app(run: Run) -> Iterator[Werk]:
    app = Werk(run.dsn, schema=run.names.schema)
    yield app
    app.close()


@SYNC
@KIND
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_app_joins_the_transaction_of_conn(app: Werk, desk: Desk, dsn: str, kind: str, end: str) -> None:
    with contextlib.closing(psycopg.connect(dsn, **KINDS[kind])) as connection:
        if connection.autocommit:
            connection.execute("begin")
        job = app.enqueue("app.work", 1, _conn=connection, _key="k")
        assert job is not None
        assert app.enqueue("app.work", 1, _conn=connection, _key="k") is None
        many = app.enqueue_many(
            [EnqueueParams("app.work", (2,)), EnqueueParams("app.work", (3,), depends_on=job)], _conn=connection
        )
        assert [one.status for one in many if one] == ["queued", "waiting"]
        assert desk.count("jobs") == 0
        getattr(connection, end)()
        assert desk.count("jobs") == (3 if end == "commit" else 0)
        assert connection.row_factory is (dict_row if kind == "dict rows" else tuple_row)


@SYNC
def test_the_app_in_a_callers_pipeline(app: Werk, desk: Desk, dsn: str) -> None:
    with psycopg.connect(dsn) as connection, connection.pipeline():
        job = app.enqueue("app.work", 1, _conn=connection)
        assert job is not None
        assert job.status == "queued"
        assert job.enqueued_at is not None
    assert desk.status(job.id) == "queued"


@SYNC
def test_a_closed_connection_is_a_clear_error(app: Werk, desk: Desk, dsn: str) -> None:
    connection = psycopg.connect(dsn)
    connection.close()
    with pytest.raises(ConnectionError):
        app.enqueue("app.work", _conn=connection)
    assert desk.count("jobs") == 0


@SYNC
def test_what_is_no_connection_is_refused(app: Werk, desk: Desk) -> None:
    with pytest.raises(EnqueueError, match="_conn takes"):
        app.enqueue("app.work", _conn=object())
    assert desk.count("jobs") == 0
