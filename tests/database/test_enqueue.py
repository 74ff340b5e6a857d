"""Enqueueing: what is written, what is refused, what can be said twice."""

from datetime import UTC, datetime, timedelta

import pytest

from pgwerk._core.operations import enqueue as op
from pgwerk._core.statements import workers
from pgwerk._core.statements.enqueue import inserted_before
from pgwerk._memory.messages import WAKE
from pgwerk.errors import EnqueueError, SerializationError
from tests.database.builders import WORKER, Desk, args_of, new


def test_a_plain_job_is_queued_with_the_defaults_of_the_table(desk: Desk) -> None:
    row = desk.row(desk.put(1, "two"))
    assert (row["status"], row["queue"], row["priority"], row["attempts"], row["max_attempts"]) == (
        "queued",
        "default",
        0,
        0,
        1,
    )
    assert row["payload"] == {"args": [1, "two"]}
    assert row["scheduled_at"] == row["enqueued_at"]
    assert (row["expires_at"], row["meta"], row["key"]) == (None, None, None)


def test_the_answer_is_what_the_row_says(desk: Desk) -> None:
    (answer,) = desk.send([new(delay=30)])
    assert answer is not None
    row = desk.row(answer.id)
    assert (answer.status, answer.scheduled_at, answer.enqueued_at) == (
        row["status"], row["scheduled_at"], row["enqueued_at"],
    )  # fmt: skip


def test_a_delay_counts_from_now_on_the_databases_clock(desk: Desk) -> None:
    row = desk.row(desk.put(delay=90.5))
    assert row["status"] == "scheduled"
    assert row["scheduled_at"] - row["enqueued_at"] == timedelta(seconds=90.5)


def test_a_time_in_the_future_schedules_and_one_in_the_past_queues(desk: Desk) -> None:
    soon = desk.now() + timedelta(hours=1)
    row = desk.row(desk.put(at=soon, delay=5))
    assert (row["status"], row["scheduled_at"]) == ("scheduled", soon)
    past = datetime(2001, 2, 3, tzinfo=UTC)
    row = desk.row(desk.put(at=past))
    assert (row["status"], row["scheduled_at"]) == ("queued", past)


def test_a_naive_time_is_utc(desk: Desk) -> None:
    row = desk.row(desk.put(at=datetime(2001, 2, 3, 4)))  # noqa: DTZ001  # the point
    assert row["scheduled_at"] == datetime(2001, 2, 3, 4, tzinfo=UTC)


def test_a_ttl_counts_from_when_the_job_may_start(desk: Desk) -> None:
    row = desk.row(desk.put(ttl=10))
    assert row["expires_at"] - row["enqueued_at"] == timedelta(seconds=10)
    row = desk.row(desk.put(ttl=10, delay=20))
    assert row["expires_at"] - row["enqueued_at"] == timedelta(seconds=30)


def test_a_key_that_exists_in_any_state_gives_none(desk: Desk) -> None:
    first = desk.take(1, key="k")
    assert desk.send([new(2, key="k")]) == [None]
    desk.end(first)
    assert desk.send([new(2, key="k")]) == [None]
    assert desk.count("jobs") == 1
    desk.sql("delete from {jobs}")
    assert desk.send([new(3, key="k")]) != [None]


def test_a_bulk_keeps_the_order_and_leaves_out_duplicates(desk: Desk) -> None:
    desk.put(0, key="there")
    orders = [new(1), new(2, key="a"), new(3, key="there"), new(4, key="a"), new(5, delay=9), new(6, priority=2)]
    answers = desk.send(orders)
    assert [answer.id if answer else None for answer in answers] == [
        orders[0].id, orders[1].id, None, None, orders[4].id, orders[5].id,
    ]  # fmt: skip
    assert [answer.status for answer in answers if answer] == ["queued", "queued", "scheduled", "queued"]
    assert args_of(desk.row(orders[1].id)) == [2]


def test_in_a_bulk_each_job_has_its_own_options_and_the_others_defaults(desk: Desk) -> None:
    later = desk.now() + timedelta(hours=2)
    rich = new(
        1, queue="q", priority=3, retry=4, meta={"a": 1}, ttl=60, at=later, group="g", timeout=2, heartbeat=3,
        result_ttl=4, failure_ttl=5, failure_mode="delete", on_success="app.a", on_failure="app.b", on_stopped="app.c",
        schedule_name="s",
    )  # fmt: skip
    plain = new(2)
    desk.send([rich, plain])
    alone = new(2)
    desk.send([alone])
    different = {"id", "scheduled_at", "enqueued_at"}
    expected = {k: v for k, v in desk.row(alone.id).items() if k not in different}
    assert {k: v for k, v in desk.row(plain.id).items() if k not in different} == expected
    row = desk.row(rich.id)
    assert (row["queue"], row["priority"], row["max_attempts"], row["meta"], row["status"]) == (
        "q",
        3,
        4,
        {"a": 1},
        "scheduled",
    )
    assert row["expires_at"] == later + timedelta(seconds=60)
    assert (row["failure_mode"], row["group_key"], row["timeout_secs"], row["heartbeat_secs"]) == ("delete", "g", 2, 3)
    assert (row["on_success"], row["on_failure"], row["on_stopped"], row["schedule_name"]) == (
        "app.a",
        "app.b",
        "app.c",
        "s",
    )


def test_one_job_and_a_bulk_of_one_write_the_same_row(desk: Desk) -> None:
    options = {"delay": 5, "ttl": 50, "key": None, "meta": {"x": 1}, "retry": 2, "priority": 1}
    one, many = new(1, **options), new(1, **options)
    desk.run(op.enqueue(one, always_tell=False))
    desk.run(op.enqueue_many([many], always_tell=False))
    different = {"id", "scheduled_at", "enqueued_at", "expires_at"}
    rows = [{k: v for k, v in desk.row(order.id).items() if k not in different} for order in (one, many)]
    assert rows[0] == rows[1]


def test_more_jobs_than_one_statement_takes_are_inserted_all(desk: Desk) -> None:
    answers = desk.send([new(n) for n in range(op.CHUNK + 5)])
    assert None not in answers
    assert desk.count("jobs") == op.CHUNK + 5


def test_enqueueing_again_after_an_unknown_commit_finds_the_same_job(desk: Desk) -> None:
    order = new(1, key="k")
    first = desk.run(op.enqueue(order, always_tell=False))
    assert first is not None
    assert desk.run(op.enqueue(order, always_tell=False)) == first
    assert desk.count("jobs") == 1


@pytest.mark.parametrize("keyed", [False, True])
def test_a_bulk_sent_again_after_an_unknown_commit_finds_the_same_jobs(desk: Desk, keyed: bool) -> None:
    orders = [new(n, **({"key": f"k{n}"} if keyed else {})) for n in range(3)]
    first = desk.send(orders)
    assert None not in first
    assert desk.send(orders) == first
    assert desk.count("jobs") == 3


def test_a_dependent_sent_again_after_an_unknown_commit_stays_one(desk: Desk) -> None:
    parent = desk.put()
    order = new(1, depends_on=parent)
    first = desk.send([order])
    assert desk.send([order]) == first
    assert desk.count("job_deps") == 1


def test_an_unknown_dependency_is_an_error_that_leaves_nothing_behind(desk: Desk) -> None:
    gone = new()
    with pytest.raises(EnqueueError, match=gone.id):
        desk.send([new(1), new(2, depends_on=gone.id)])
    assert desk.count("jobs") == desk.count("job_deps") == 0


@pytest.mark.postgres
def test_a_duplicate_waits_for_the_transaction_that_has_the_key(desk: Desk) -> None:
    for end, expected in (("rollback", False), ("commit", True)):
        first, second = desk.run.peer(), desk.run.peer()
        key = f"key {end}"
        first.begin()
        first.run(op.enqueue(new(1, key=key), always_tell=False))
        second.start(op.enqueue(new(2, key=key), always_tell=False))
        assert second.waits
        getattr(first, end)()
        assert (second.finish() is None) is expected


def test_what_postgres_cannot_store_is_an_error_and_no_job(desk: Desk) -> None:
    order = new(1)
    order.values["payload"] = '{"args": ["\\u0000"]}'
    with pytest.raises(SerializationError):
        desk.send([order])
    order.values["payload"] = "not json"
    with pytest.raises(SerializationError):
        desk.send([order])
    order.values["payload"] = '{"args": [1e200000]}'
    with pytest.raises(SerializationError):
        desk.send([order])
    assert desk.count("jobs") == 0


def test_a_time_that_overflows_is_an_error_and_no_job(desk: Desk) -> None:
    with pytest.raises(EnqueueError):
        desk.put(at=datetime.max.replace(tzinfo=UTC), ttl=60)
    assert desk.count("jobs") == 0


def test_text_with_percent_signs_quotes_and_braces_arrives_unchanged(desk: Desk) -> None:
    text = "100% %s %(x)s {jobs} [jobs_key] 'q' \"d\" \\ ü 漢"
    job_id = desk.put(text, key=text, queue=text[:40], meta={text: text})
    row = desk.row(job_id)
    assert (args_of(row), row["key"], row["queue"], row["meta"]) == ([text], text, text[:40], {text: text})


# Telling --------------------------------------------------------------------------


def test_nobody_is_told_while_nobody_sleeps(desk: Desk) -> None:
    desk.looking.listen(WAKE)
    desk.put()
    desk.send([new(1), new(2, delay=5)])
    assert desk.looking.heard() == []


def test_a_sleeping_worker_is_told_the_queue_or_the_delay(desk: Desk) -> None:
    desk.run(workers.want_notify(WORKER))
    desk.looking.listen(WAKE)
    desk.put(queue="mail")
    assert desk.looking.heard() == ["qmail"]
    desk.put(delay=5)
    (told,) = desk.looking.heard()
    assert told[0] == "d"
    assert float(told[1:]) == 5
    desk.run(workers.stop_notify(WORKER))
    desk.put()
    assert desk.looking.heard() == []


def test_a_bulk_tells_each_queue_once_and_the_earliest_time(desk: Desk) -> None:
    desk.run(workers.want_notify(WORKER))
    desk.looking.listen(WAKE)
    desk.send([new(queue="a"), new(queue="b"), new(queue="a"), new(delay=7), new(delay=3)])
    told = sorted(desk.looking.heard())
    assert told[1:] == ["qa", "qb"]
    assert float(told[0][1:]) == pytest.approx(3, abs=0.1)


def test_inside_a_transaction_of_the_callers_whoever_listens_is_told(desk: Desk) -> None:
    desk.looking.listen(WAKE)
    desk.send([new(queue="a")], joined=True)
    assert desk.looking.heard() == ["qa"]


def test_a_repeated_id_is_answered_only_for_rows_that_exist(desk: Desk) -> None:
    assert desk.run(inserted_before(new().id)) == []
