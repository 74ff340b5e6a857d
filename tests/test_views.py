"""The facts that the command line and others show: what json.dumps takes, and says all."""

import json
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgwerk import Job, JobExecution, JobStatus, PickleSerializer, Retry, ThreadWorker, Werk, WorkerInfo, views

KEYS = {"args", "kwargs", "reason", "duration"}


@pytest.fixture
def app() -> Iterator[Werk]:
    made = Werk.in_memory()
    yield made
    made.close()


def test_the_types_name_what_the_views_hold() -> None:
    view = views.job(Job())
    assert set(view) == set(views.JobView.__annotations__)
    assert set(view) == {field.name for field in fields(Job)} - set(views.INTERNAL) | KEYS
    execution = views.execution(JobExecution("e", "j", 1, "complete"))  # type: ignore[arg-type]
    assert set(execution) == set(views.ExecutionView.__annotations__)
    assert set(views.job_page(Job(), [], [])) == set(view) | {"executions", "dependencies"}
    assert set(views.JOB_STATUSES) == set(JobStatus)


def test_a_job_and_its_attempts(app: Werk) -> None:
    parent = app.enqueue("json.dumps", 1, _delay=600)
    job = app.enqueue("json.loads", "nonsense", _retry=Retry(2), _meta={"user": 7})
    after = app.enqueue("json.dumps", 1, _depends_on=parent)
    ThreadWorker(app, burst=True).run()
    view = views.job_page(app.get_job(job), app.get_executions(job), app.get_job_dependencies(job))
    assert json.loads(json.dumps(view)) == view
    assert (view["status"], view["args"], view["kwargs"], view["meta"]) == ("failed", ["nonsense"], {}, {"user": 7})
    assert (view["reason"] or "").startswith("json.decoder.JSONDecodeError")
    assert [(one["attempt"], one["status"]) for one in view["executions"]] == [(1, "failed"), (2, "failed")]
    assert all((one["duration"] or 0.0) >= 0.0 for one in view["executions"])
    enqueued = datetime.fromisoformat(view["enqueued_at"] or "")
    assert enqueued == app.get_job(job).enqueued_at
    assert enqueued.utcoffset() == timedelta(0)
    assert views.job_page(app.get_job(after), [], app.get_job_dependencies(after))["dependencies"] == [parent.id]


def test_the_installation(app: Werk) -> None:
    app.enqueue("json.dumps", 1, _queue="mail")
    app.pause_queue("mail", "provider down")
    ThreadWorker(app, burst=True).run()
    view = views.installation(app)
    assert json.loads(json.dumps(view)) == view
    (queue,) = view["queues"]
    assert (queue["queue"], queue["total"], queue["paused"], queue["pause_reason"]) == (
        "mail", 1, True, "provider down",
    )  # fmt: skip
    (worker,) = view["workers"]
    assert worker["metadata"]["worker_type"] == "thread"
    assert datetime.fromisoformat(worker["started_at"]) <= datetime.fromisoformat(view["at"])
    assert set(worker) == set(views.WorkerView.__annotations__) == {field.name for field in fields(WorkerInfo)}


def test_no_view_holds_the_password(dsn: str, migrated: str) -> None:
    secret = urlsplit(dsn).password
    assert secret
    with Werk(dsn, schema=migrated) as app:
        job = app.enqueue("json.dumps", 1)
        ThreadWorker(app, burst=True).run()
        shown = json.dumps([views.installation(app), views.job_page(app.get_job(job), app.get_executions(job), [])])
    assert '"at": "' in shown
    assert secret not in shown


def test_what_cannot_be_decoded_is_text_with_the_reason(dsn: str, migrated: str) -> None:
    with Werk(dsn, schema=migrated, serializer=PickleSerializer()) as writer:
        job = writer.enqueue("json.dumps", {1, 2})
    with Werk(dsn, schema=migrated) as reader:
        view = views.job(reader.get_job(job))
    assert "cannot be decoded by JSONSerializer" in view["payload"][views.UNDECODABLE]
    assert "$bytes" in view["payload"]["text"]
    assert (view["args"], view["kwargs"]) == ([], {})


class Hidden:
    def __str__(self) -> str:
        raise RuntimeError("not me")


def test_values_that_json_does_not_have() -> None:
    around: list[Any] = [1]
    around.append(around)
    east = timezone(timedelta(hours=2))
    for value, expected in [
        (datetime(2030, 1, 2, 3, tzinfo=east), "2030-01-02T03:00:00+02:00"),
        (datetime(2030, 1, 2, 3), "2030-01-02T03:00:00+00:00"),  # noqa: DTZ001  # as UTC
        (date(2030, 1, 2), "2030-01-02"),
        (timedelta(minutes=2), 120.0),
        (JobStatus.ACTIVE, "active"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (float("nan"), "nan"),
        ({2, 1}, [1, 2]),
        ((1, b"x"), [1, "b'x'"]),
        ({1: {None: float("-inf")}}, {"1": {"None": "-inf"}}),
        (around, [1, "(contains itself)"]),
        ([around[:1]] * 2, [[1], [1]]),
        (Hidden(), "(Hidden, which cannot be shown)"),
    ]:
        assert views.value(value) == expected
    assert type(views.value(JobStatus.ACTIVE)) is str


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(timezones=st.just(UTC))
trees = st.recursive(
    scalars | st.binary() | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(trees)
def test_every_value_is_strict_json_and_stays_it(value: Any) -> None:
    view = views.value(value)
    assert json.loads(json.dumps(view, allow_nan=False)) == view
    assert views.value(view) == view
