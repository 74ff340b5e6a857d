"""Rows that SQL put there, which is a documented producer: whatever they hold, the jobs beside them are run."""

import contextlib
import json
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgwerk import DequeueStrategy, JobStatus, ThreadWorker, Werk
from tests.database.test_bounds import OUTSIDE
from tests.exactness import handlers
from tests.exactness.helpers import Outside, enqueued

OK = "tests.workers.handlers.note"
TIMES = ("scheduled_at", "enqueued_at", "started_at", "completed_at", "touched_at", "expires_at")
INTEGERS = ("attempts", "max_attempts", "priority", "group_limit", "repeat_remaining", "claim_id")
SECONDS = (
    "timeout_secs", "heartbeat_secs", "ttl", "result_ttl", "failure_ttl", "on_success_timeout", "on_failure_timeout",
    "on_stopped_timeout", "wait_delay", "repeat_interval_secs",
)  # fmt: skip
JSON = ("payload", "result", "meta", "progress", "retry_intervals", "no_retry", "repeat_intervals")
TEXTS = (
    "queue", "function", "key", "group_key", "error", "on_success", "on_failure", "on_stopped", "schedule_name",
    "callback_kind",
)  # fmt: skip
IDS = ("worker_id", "callback_of")

times = st.sampled_from([
    "infinity", "-infinity", "0044-03-15 BC", "0001-01-01", "0002-01-02", "1969-12-31", "9900-01-01Z", "9999-12-31Z",
    "12000-01-01", "294276-12-31", "4713-01-01 BC",
])  # fmt: skip
integers = st.sampled_from([0, -1, 1, 2, 3, 32767, -32768, 32768, 2**31 - 1, -(2**31), 2**63 - 1])
seconds = st.sampled_from(["infinity", "-infinity", "NaN", "0", "-1", "1e-300", "1e9", "1e10", "1e308", "0.001"])
documents = st.sampled_from([
    "null", "1", '"text"', "[]", "{}", "true", "[[[]]]", '["a", null, {}]', "[1e400, -1e400]", '{"args": 5}',
    '{"args": "abc", "kwargs": []}', '{"kwargs": {"1": 2}}', '{"args": [[]], "kwargs": 7}', '{"$bytes": 1}',
    '{"$bytes": "%%"}', "[-5, 1e12]", '["soon"]', "9" * 5000, "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900,
])  # fmt: skip
texts = st.sampled_from(
    ["", " ", "€", "\x01\x7f", "a.b", "os.nothing", "q" * 1024, "q" * 3200, "f" * 100_000, "{}'\"%s"]
)
ids = st.sampled_from(["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"])
statuses = st.sampled_from(["queued", "scheduled", "waiting", "active", "aborting", "complete", "failed", "aborted"])

rows = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(TIMES, times),
        **dict.fromkeys(INTEGERS, integers),
        **dict.fromkeys(SECONDS, seconds),
        **dict.fromkeys(JSON, documents),
        **dict.fromkeys(TEXTS, texts),
        **dict.fromkeys(IDS, ids),
        "status": statuses,
        "blocked": st.booleans(),
        "awaited": st.booleans(),
        "failure_mode": st.sampled_from(["hold", "delete"]),
    },
)


def one_at_a_time(values: st.SearchStrategy[Any], names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda name, value: {name: value}, st.sampled_from(names), values)


singles = st.one_of(
    one_at_a_time(times, TIMES), one_at_a_time(integers, INTEGERS), one_at_a_time(seconds, SECONDS),
    one_at_a_time(documents, JSON), one_at_a_time(texts, TEXTS), one_at_a_time(ids, IDS),
)  # fmt: skip


def put(outside: Outside, row: dict[str, Any], then: dict[str, Any] | None = None) -> str | None:
    """Insert a row as psql would, and change it as somebody's hand would; None when the database refuses it."""
    row = {"function": OK, "payload": '{"args": ["hostile"]}', **row}
    names, places = ", ".join(row), ", ".join(["%s"] * len(row))
    try:
        id_ = outside.one(f"insert into {{jobs}} ({names}) values ({places}) returning id::text", *row.values())
    except psycopg.errors.UniqueViolation:
        return None
    except psycopg.DataError:
        return None
    except (psycopg.errors.CheckViolation, psycopg.errors.ProgramLimitExceeded):
        return None
    if then:
        changes = ", ".join(f"{name} = %s" for name in then)
        with contextlib.suppress(psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded):
            outside.sql(f"update {{jobs}} set {changes} where id = %s", *then.values(), id_)
    return str(id_)


@pytest.mark.parametrize("bounded", [True, False], ids=["bounded", "of an old installation"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.one_of(singles, rows), st.one_of(st.none(), singles)), min_size=1, max_size=12))
def test_whatever_is_in_a_row_the_others_are_looked_after(
    app: Werk, outside: Outside, notes: Any, bounded: bool, hostile: list[tuple[dict[str, Any], dict[str, Any] | None]]
) -> None:
    outside.sql("truncate {jobs}, {claims}, {executions}, {job_deps}, {permits}")
    notes.clear()
    if not bounded:
        outside.sql("alter table {jobs} drop constraint if exists [jobs_bounds]")
    for row, then in hostile:
        put(outside, row, then)
    # A job may repeat as long as it likes, and a burst runs all of it: some thousand times are enough to be tired of.
    outside.sql("update {jobs} set repeat_remaining = 3 where repeat_remaining > 3")
    good = enqueued(app.enqueue(OK, "good", _retry=3))
    heir = enqueued(app.enqueue(OK, "heir", _depends_on=good))
    member = enqueued(app.enqueue(OK, "member", _group="g", _priority=-1))
    later = enqueued(app.enqueue(OK, "later", _delay=0.01))
    ThreadWorker(app, burst=True, concurrency=2).run()
    app.sweep()
    ThreadWorker(app, burst=True, concurrency=2).run()
    for job in (good, heir, member, later):
        assert app.get_job(job).status is JobStatus.COMPLETE, app.get_job(job).error
    listed = app.list_jobs(limit=100)
    assert {job.id for job in (good, heir, member, later)} <= {job.id for job in listed}
    for job in listed:
        assert app.get_job(job).id == job.id
        assert isinstance(job.args, tuple)
        assert isinstance(job.kwargs, dict)
        app.get_executions(job)
    assert sum(queue.total for queue in app.get_queue_stats()) == len(listed)


def test_all_that_the_bounds_refuse_stopped_nobody_without_them(app: Werk, outside: Outside, notes: Any) -> None:
    outside.sql("alter table {jobs} drop constraint [jobs_bounds]")
    for column, value in OUTSIDE:
        for status in ("queued", "scheduled", "failed"):
            columns = {"function": f"'{OK}'", "status": f"'{status}'", column: value}
            columns = {name: text.replace("%", "%%") for name, text in columns.items()}
            outside.sql(f"insert into {{jobs}} ({', '.join(columns)}) values ({', '.join(columns.values())})")
    jobs = [enqueued(app.enqueue(OK, "good")) for _ in range(10)]
    ThreadWorker(app, burst=True).run()
    app.sweep()
    ThreadWorker(app, burst=True).run()
    assert {app.get_job(job).status for job in jobs} == {JobStatus.COMPLETE}
    assert len(app.list_jobs(limit=1000)) == outside.count()
    assert outside.count("status in ('active', 'aborting')") == 0


def test_one_row_that_refuses_every_change_stops_no_duty(app: Werk, outside: Outside, notes: Any) -> None:
    """What a constraint or trigger of the installation's own does; each duty finds its batch refused."""
    outside.sql("alter table {jobs} add constraint odd check (function <> 'odd.one' or status <> 'queued')")
    due = "insert into {jobs} (function, status, scheduled_at, payload) values (%s, 'scheduled', now(), %s)"
    for function in (OK, "odd.one", OK):
        outside.sql(due, function, json.dumps({"args": ["promoted"]}))
    ThreadWorker(app, burst=True).run()
    assert notes.count("promoted") == 2
    (odd,) = app.list_jobs(function="odd.one")
    assert odd.status is JobStatus.FAILED
    assert "it could not be queued" in (odd.error or "")


def test_a_job_that_cannot_be_claimed_fails_with_the_reason(app: Werk, outside: Outside, notes: Any) -> None:
    outside.sql("alter table {jobs} add constraint odd check (function <> 'odd.one' or status <> 'active')")
    for number in range(20):
        enqueued(app.enqueue("odd.one" if number == 7 else OK, "claimed"))
    ThreadWorker(app, burst=True).run()
    assert notes.count("claimed") == 19
    (odd,) = app.list_jobs(function="odd.one")
    assert odd.status is JobStatus.FAILED
    assert "it could not be claimed" in (odd.error or "")


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_lost_job_that_cannot_be_recovered_does_not_keep_the_others(
    app: Werk, outside: Outside, attempts: int
) -> None:
    # Neither its regular end nor another try can be written.
    outside.sql("alter table {jobs} add constraint odd check (function <> 'odd.one' or status = 'active'"
                " or error like 'Postgres%%')")  # fmt: skip
    dead = "00000000-0000-7000-8000-0000000000dd"
    outside.sql("insert into {worker} (id, name, queue, status) values (%s, 'host.1', 'default', 'lost')", dead)
    ids = [outside.one("insert into {jobs} (function, status, claim_id, attempts, max_attempts, worker_id, started_at)"
                       " values (%s, 'active', 9, 1, %s, %s, now()) returning id::text",
                       "odd.one" if number == 2 else OK, attempts, dead) for number in range(5)]  # fmt: skip
    outside.sql("insert into {claims} (id, worker_id, job_ids, claimed_at) overriding system value"
                " values (9, %s, %s::uuid[] || null::uuid, now() - interval '1 hour')", dead, ids)  # fmt: skip
    app.sweep()
    assert outside.count("status in ('active', 'aborting')") == 0
    assert outside.one("select count(*) from {claims}") == 0


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (None, {"args": [], "kwargs": {}}),
        ('{"args": [1]}', {"args": [1], "kwargs": {}}),
        ('{"kwargs": {"a": 1}}', {"args": [], "kwargs": {"a": 1}}),
        ('{"other": 1}', {"args": [], "kwargs": {}, "other": 1}),
        ("[1]", [1]),
    ],
)
def test_a_payload_that_is_read_has_both_parts(app: Werk, outside: Outside, stored: str | None, read: Any) -> None:
    """What is no object at all is shown as it is."""
    job = app.enqueue(handlers.noop)
    assert job.payload == {"args": [], "kwargs": {}}
    outside.sql("update {jobs} set payload = %s::jsonb", stored)
    assert app.get_job(job).payload == read
    assert [one.payload for one in app.list_jobs()] == [read]


def test_a_handler_and_a_hook_see_both_parts_of_a_payload(app: Werk) -> None:
    seen: list[Any] = []
    app.register_before_enqueue(lambda job: seen.append(job.payload))
    calls = [app.enqueue(handlers.noop), app.enqueue(handlers.echo, 7), app.enqueue(handlers.echo, value=7)]
    wanted = [{"args": [], "kwargs": {}}, {"args": [7], "kwargs": {}}, {"args": [], "kwargs": {"value": 7}}]
    assert [job.payload for job in calls] == seen == wanted
    del seen[:]
    ThreadWorker(app, concurrency=1, burst=True, before_process=[lambda ctx: seen.append(ctx.job.payload)]).run()
    assert seen == wanted


def refuse_every_change(outside: Outside, app: Werk, function: str) -> None:
    """What a trigger of the installation's own can do."""
    name = app._app.names.table("jobs")[:-1] + '_refuse"'
    outside.sql(f"create or replace function {name}() returns trigger language plpgsql as "
                f"$$ begin if old.function = '{function}' then raise exception 'hands off'; end if; "
                "return new; end $$")  # fmt: skip
    outside.sql(f"create trigger refuse before update on {{jobs}} for each row execute function {name}()")


@pytest.mark.parametrize("concurrency", [1, 5])
@pytest.mark.parametrize("strategy", ["priority", "round_robin"])
def test_jobs_that_nobody_can_change_do_not_keep_those_behind_them(
    app: Werk, outside: Outside, notes: Any, caplog: pytest.LogCaptureFixture, concurrency: int, strategy: str
) -> None:
    refuse_every_change(outside, app, "odd.one")
    odd = [enqueued(app.enqueue("odd.one", "never", _priority=9)).id for _ in range(3)]
    for _ in range(10):
        enqueued(app.enqueue(OK, "behind"))
    ThreadWorker(app, burst=True, concurrency=concurrency, dequeue_strategy=DequeueStrategy(strategy)).run()
    assert notes.count("behind") == 10
    told = [record.getMessage() for record in caplog.records if "can be neither claimed nor failed" in record.msg]
    assert sorted(line.split()[1] for line in told) == sorted(odd)
    assert all("hands off" in line for line in told)
    assert {app.get_job(id_).status for id_ in odd} == {JobStatus.QUEUED}
    # Once it can be changed, it runs.
    outside.sql("drop trigger refuse on {jobs}")
    outside.sql("update {jobs} set function = %s where function = 'odd.one'", OK)
    ThreadWorker(app, burst=True).run()
    assert notes.count("never") == 3
