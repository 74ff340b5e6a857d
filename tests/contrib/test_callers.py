"""`_conn` joins the caller's transaction, whatever library it comes from, and leaves the connection as it was."""

from datetime import timedelta
from typing import Any

import pytest

from pgwerk import EnqueueError, EnqueueParams, Group, JobStatus, Retry, Werk
from tests.fixtures.callers import Caller

WORK = "tests.contrib.handlers.work"


def jobs(pg: Any, schema: str) -> list[Any]:
    return list(pg.execute(f"select * from {schema}._pgwerk_jobs order by id"))


def things(pg: Any, schema: str) -> int:
    row = pg.execute(f"select count(*) from {schema}.things").fetchone()
    assert row is not None
    return int(row[0])


def test_commit_brings_both(werk: Werk, caller: Caller, pg: Any, schema: str) -> None:
    caller.execute(f"insert into {schema}.things values ('a')")
    job = werk.enqueue(WORK, 1, text="ünïcode 'quoted' %s {x}", _conn=caller.conn)
    assert job is not None
    assert things(pg, schema) == 0
    assert jobs(pg, schema) == []
    caller.commit()
    assert things(pg, schema) == 1
    found = werk.get_job(job)
    assert found.payload == {"args": [1], "kwargs": {"text": "ünïcode 'quoted' %s {x}"}}
    assert (found.scheduled_at, found.enqueued_at) == (job.scheduled_at, job.enqueued_at)


def test_rollback_takes_both(werk: Werk, caller: Caller, pg: Any, schema: str) -> None:
    caller.execute(f"insert into {schema}.things values ('a')")
    assert werk.enqueue(WORK, _conn=caller.conn) is not None
    caller.rollback()
    assert things(pg, schema) == 0
    assert jobs(pg, schema) == []


def test_every_option(werk: Werk, caller: Caller) -> None:
    parent = werk.enqueue(WORK, _conn=caller.conn)
    assert parent is not None
    job = werk.enqueue(
        WORK, None, [1, {"a": None}], _conn=caller.conn, _queue="mail", _priority=-32768, _delay=timedelta(hours=1),
        _retry=Retry(3, intervals=[1, 2.5], no_retry=(ValueError,)), _timeout=1.5, _key="k:ü",
        _meta={"a": [True, None]}, _group=Group("g", limit=2), _ttl=60, _result_ttl=0, _on_failure=WORK,
    )  # fmt: skip
    child = werk.enqueue(WORK, _conn=caller.conn, _depends_on=parent)
    assert job is not None
    assert child is not None
    caller.commit()
    found = werk.get_job(job)
    assert (found.status, found.priority, found.queue) == (JobStatus.SCHEDULED, -32768, "mail")
    assert (found.timeout_secs, found.max_attempts, found.meta) == (1.5, 3, {"a": [True, None]})
    assert found.expires_at is not None
    assert werk.get_job(child).status is JobStatus.WAITING
    assert werk.get_job_dependencies(child) == [parent.id]


def test_many(werk: Werk, caller: Caller, pg: Any, schema: str) -> None:
    specs = [EnqueueParams(func=WORK, args=(n,), priority=-n, key=f"k{n % 1200}") for n in range(1500)]
    made = werk.enqueue_many(specs, _conn=caller.conn)
    assert [job is None for job in made] == [n >= 1200 for n in range(1500)]
    assert jobs(pg, schema) == []
    caller.commit()
    assert len(jobs(pg, schema)) == 1200


def test_a_duplicate_key_is_none_and_aborts_nothing(werk: Werk, caller: Caller, pg: Any, schema: str) -> None:
    assert werk.enqueue(WORK, _key="once") is not None
    caller.execute(f"insert into {schema}.things values ('a')")
    assert werk.enqueue(WORK, _conn=caller.conn, _key="once") is None
    caller.execute(f"insert into {schema}.things values ('b')")
    caller.commit()
    assert things(pg, schema) == 2
    assert len(jobs(pg, schema)) == 1


def test_a_refused_call_aborts_nothing(werk: Werk, caller: Caller) -> None:
    caller.execute("select 1")
    with pytest.raises(EnqueueError, match="does not exist"):
        werk.enqueue(WORK, _conn=caller.conn, _depends_on="0190a5a0-0000-7000-8000-000000000000")
    with pytest.raises(EnqueueError):
        werk.enqueue(WORK, _conn=caller.conn, _priority=10**6)
    assert caller.execute("select 1")[0][0] == 1


def test_the_connection_is_left_as_it_was(werk: Werk, caller: Caller) -> None:
    caller.execute("set local application_name = 'mine'")
    facts = _facts(caller)
    assert werk.enqueue(WORK, _conn=caller.conn) is not None
    assert werk.enqueue_many([EnqueueParams(func=WORK)] * 3, _conn=caller.conn) != []
    assert _facts(caller) == facts
    assert caller.execute("show application_name")[0][0] == "mine"


def _facts(caller: Caller) -> tuple[Any, ...]:
    driver = caller.driver
    factories = [getattr(driver, name, None) for name in ("row_factory", "cursor_factory")]
    (xid,) = caller.execute("select pg_current_xact_id()::text")[0]
    return driver.autocommit, driver.info.transaction_status, driver.isolation_level, xid, *factories


def test_the_job_can_run_at_once_inside(werk: Werk, caller: Caller, pg: Any, schema: str) -> None:
    job = werk.enqueue(WORK, 7, _conn=caller.conn, _sync=True)
    assert job is not None
    assert (job.status, job.result) == (JobStatus.COMPLETE, [7, {}])
    assert jobs(pg, schema) == []
    caller.rollback()
    assert jobs(pg, schema) == []
