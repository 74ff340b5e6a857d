"""Serializers from end to end: what comes back is equal, or the reason is told."""

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from pgwerk import (
    JobError,
    JobStatus,
    JSONSerializer,
    PickleSerializer,
    SerializationError,
    Serializer,
    TypedJSONSerializer,
    Werk,
)
from tests.exactness import handlers
from tests.exactness.helpers import Outside, enqueued, expect
from tests.fixtures.workers import thread_worker


@pytest.fixture
def with_serializer(dsn: str, schema: str, app: Werk) -> Iterator[Any]:
    made: list[Werk] = []

    def make(serializer: Serializer) -> Werk:
        made.append(Werk(dsn, schema=schema, serializer=serializer))
        return made[-1]

    yield make
    for one in made:
        one.close()


VALUES: list[Any] = [
    datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC),
    datetime(2024, 2, 29, 12, 30),  # noqa: DTZ001  # naive comes back naive
    date(2024, 2, 29),
    time(1, 2, 3),
    timedelta(days=-1, microseconds=7),
    UUID("12345678-1234-5678-1234-567812345678"),
    Decimal("0.10"),
    b"\0\xff bytes",
    {1, 2, 3},
    frozenset({"a"}),
    (1, (2, "x")),
    math.inf,
    -math.inf,
    {1: "a", (2, 3): "b"},
    {"$uuid": "not one"},
    {"$": {"$dict": []}},
    {"nested": [{"deep": (Decimal(1), {UUID(int=1)})}]},
    "text",
    None,
    True,
    10**50,
    1e23,
    0.1,
    5e-324,
]


@pytest.mark.parametrize("serializer", [TypedJSONSerializer(), PickleSerializer()], ids=["typed", "pickle"])
def test_values_come_back_equal_and_of_their_types(with_serializer: Any, serializer: Serializer) -> None:
    app = with_serializer(serializer)
    with thread_worker(app):
        found = app.map(handlers.echo, [{"value": value} for value in VALUES], timeout=30)
        nan = app.apply(handlers.echo, math.nan, timeout=30)
        zero = app.apply(handlers.echo, -0.0, timeout=30)
    assert found == VALUES
    assert [type(value) for value in found] == [type(value) for value in VALUES]
    assert math.isnan(nan)
    assert math.copysign(1, zero) == -1


def test_typed_json_can_be_queried(with_serializer: Any, outside: Outside) -> None:
    app = with_serializer(TypedJSONSerializer())
    job = enqueued(app.enqueue(handlers.echo, {"a": UUID(int=1), "b": 2}))
    assert app.get_job(job).args == ({"a": UUID(int=1), "b": 2},)
    found = outside.one("select payload->'args'->0->'a'->>'$uuid' from {jobs}")
    assert found == "00000000-0000-0000-0000-000000000001"


def test_what_plain_json_would_lose_is_refused_at_enqueue_and_recorded_at_the_end(app: Werk, outside: Outside) -> None:
    for value in (math.nan, {1}, b"x", object(), {1: "a", "1": "b"}, [{"a": {True: 1, "true": 2}}]):
        with pytest.raises(SerializationError):
            _ = app.enqueue(handlers.echo, value)
    assert outside.count() == 0
    now = datetime(2024, 2, 29, tzinfo=UTC)
    with thread_worker(app):
        assert app.apply(handlers.echo, [now, UUID(int=1), Decimal("0.10"), (1, 2)], timeout=30) == [
            now.isoformat(), str(UUID(int=1)), "0.10", [1, 2],
        ]  # fmt: skip


@pytest.mark.parametrize("worker", [JSONSerializer(), TypedJSONSerializer()], ids=["json", "typed"])
def test_a_worker_that_cannot_read_a_pickle_fails_the_job_with_the_reason(
    app: Werk, with_serializer: Any, worker: Serializer
) -> None:
    producer, consumer = with_serializer(PickleSerializer()), with_serializer(worker)
    job = enqueued(producer.enqueue(handlers.echo, {1, 2}))
    with thread_worker(consumer):
        ended = expect(app, job, JobStatus.FAILED, attempts=1)
    assert "SerializationError" in (ended.error or "")


def test_a_pickle_worker_reads_the_json_of_others_and_its_result_says_that_others_cannot_read_it(
    app: Werk, with_serializer: Any
) -> None:
    consumer = with_serializer(PickleSerializer())
    job = enqueued(app.enqueue(handlers.echo, [1, "a"]))
    with thread_worker(consumer):
        expect(app, job, JobStatus.COMPLETE)
    assert consumer.get_job(job).result == [1, "a"]
    assert "JSONSerializer" in getattr(app.get_job(job).result, "reason", "")


def test_bytes_that_look_like_a_tag_stay_text(with_serializer: Any) -> None:
    app = with_serializer(TypedJSONSerializer())
    with thread_worker(app):
        tricky = [{"$bytes": "AAAA"}, {"$float": "nan"}, {"$tuple": [1]}, {"a": {"$set": []}, "$set": 1}]
        assert app.apply(handlers.echo, tricky, timeout=30) == tricky


class Broken(Serializer):
    """Decodes what nobody wrote."""

    def dumps(self, value: Any) -> str:  # noqa: ARG002
        return '{"args": [1]}'

    def loads(self, data: str | bytes) -> Any:  # noqa: ARG002
        raise SystemExit("while it is decoded")


def test_a_serializer_that_exits_is_one_failed_attempt(app: Werk, with_serializer: Any) -> None:
    job = enqueued(app.enqueue(handlers.echo, 1))
    with thread_worker(with_serializer(Broken()), concurrency=1):
        ended = expect(app, job, JobStatus.FAILED, attempts=1)
        assert "while it is decoded" in (ended.error or "")
        also = enqueued(app.enqueue(handlers.noop))
        expect(app, also, JobStatus.COMPLETE)


def test_a_result_in_a_callback_and_in_an_execution_is_decoded(with_serializer: Any) -> None:
    app = with_serializer(TypedJSONSerializer())
    with thread_worker(app):
        job = enqueued(app.enqueue(handlers.echo, {1, 2}))
        expect(app, job, JobStatus.COMPLETE)
    assert app.get_executions(job)[0].result == {1, 2}
    with pytest.raises(JobError), thread_worker(app):
        _ = app.apply(handlers.fails, timeout=20)
