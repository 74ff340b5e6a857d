"""From a caller's words to a job: every option, good and out of range; what is refused before any SQL."""

import math
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from pgwerk._core import enqueue_options
from pgwerk._core.enqueue_options import Defaults, params_of, split_options
from pgwerk._core.enqueueing import new_job
from pgwerk._core.job import Job
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.options import Callback, Dependency, EnqueueParams, Group, Repeat, Retry
from pgwerk._core.payload import JSONSerializer, PickleSerializer
from pgwerk.errors import EnqueueError, SerializationError
from tests.core import handlers

ID = "00000000-0000-7000-8000-00000000000a"
DEFAULTS = Defaults(JSONSerializer())
_numbers = count(1)


def new_id() -> str:
    return f"00000000-0000-7000-8000-{next(_numbers):012x}"


def make(func: Any = "app.work", *args: Any, defaults: Defaults = DEFAULTS, **options: Any) -> NewJob:
    return new_job(func, args, {}, options, defaults, new_id)


def values(**options: Any) -> dict[str, Any]:
    found = dict(make(**options).values)
    assert found.pop("function") == "app.work"
    del found["id"]
    return found


WHEN = datetime(2030, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"queue": "q"}, {"queue": "q"}),
        ({"queue": None, "priority": None, "retry": None, "at": None, "group": None}, {}),
        ({"key": "k" * 1024}, {"key": "k" * 1024}),
        ({"priority": -32768}, {"priority": -32768}),
        ({"priority": 32767}, {"priority": 32767}),
        ({"delay": 1.5}, {"delay": 1.5}),
        ({"delay": timedelta(minutes=1)}, {"delay": 60.0}),
        ({"delay": 0}, {}),
        ({"at": WHEN}, {"at": WHEN}),
        ({"at": WHEN.replace(tzinfo=None)}, {"at": WHEN}),
        ({"at": WHEN, "delay": 5}, {"at": WHEN}),
        ({"retry": 3}, {"max_attempts": 3}),
        ({"retry": 0}, {"max_attempts": 1}),
        ({"retry": Retry(4)}, {"max_attempts": 4, "retry_intervals": "[0.0]"}),
        ({"retry": Retry(4, [1, 2])}, {"max_attempts": 4, "retry_intervals": "[1.0,2.0]"}),
        ({"retry": Retry(2, no_retry=(ValueError,))},
         {"max_attempts": 2, "retry_intervals": "[0.0]", "no_retry": '["builtins.ValueError"]'}),
        ({"timeout": 5}, {"timeout_secs": 5.0}),
        ({"heartbeat": 5}, {"heartbeat_secs": 5.0}),
        ({"ttl": 5}, {"ttl": 5.0}),
        ({"result_ttl": 0}, {"result_ttl": 0.0}),
        ({"failure_ttl": 0}, {"failure_ttl": 0.0}),
        ({"meta": {"a": WHEN}}, {"meta": '{"a":"2030-01-02T00:00:00+00:00"}'}),
        ({"group": "g"}, {"group_key": "g"}),
        ({"group": Group("g", 3)}, {"group_key": "g", "group_limit": 3}),
        ({"on_success": "a.b"}, {"on_success": "a.b"}),
        ({"on_failure": handlers.add}, {"on_failure": "tests.core.handlers.add"}),
        ({"on_stopped": Callback(handlers.add, 5)}, {"on_stopped": "tests.core.handlers.add",
        "on_stopped_timeout": 5.0}),
        ({"repeat": Repeat(2, 5)}, {"repeat_remaining": 2, "repeat_interval_secs": 5.0}),
        ({"repeat": Repeat(3, intervals=[1, 2])},
         {"repeat_remaining": 3, "repeat_interval_secs": 0.0, "repeat_intervals": "[1.0,2.0,2.0]"}),
        ({"failure_mode": "hold"}, {}),
        ({"failure_mode": "delete"}, {"failure_mode": "delete"}),
        ({"schedule_name": "s"}, {"schedule_name": "s"}),
        ({"depends_on": ID}, {"waiting": True}),
        ({"depends_on": ID, "delay": 5}, {"waiting": True, "wait_delay": 5.0}),
        ({"depends_on": []}, {}),
    ],
)  # fmt: skip
def test_every_option_becomes_its_columns(options: dict[str, Any], expected: dict[str, Any]) -> None:
    assert values(**options) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"queue": ""}, {"queue": 5}, {"queue": "q" * 256}, {"queue": "a\0b"}, {"queue": "漢" * 100},
        {"key": ""}, {"key": "k" * 1025}, {"key": "\0"}, {"key": 5}, {"key": "\ud800" * 400},
        {"priority": 32768}, {"priority": -32769}, {"priority": 1.5}, {"priority": True}, {"priority": "high"},
        {"delay": -1}, {"delay": math.nan}, {"delay": math.inf}, {"delay": "5"}, {"delay": 1e12},
        {"delay": timedelta(-1)},
        {"at": "tomorrow"}, {"at": 5}, {"at": datetime.max}, {"at": datetime.min},  # noqa: DTZ901
        {"retry": -1}, {"retry": "3"}, {"retry": 1.5}, {"retry": 10**9}, {"retry": True},
        {"timeout": 0}, {"timeout": -1}, {"timeout": math.inf}, {"heartbeat": 0}, {"ttl": 0}, {"ttl": -1},
        {"result_ttl": -1}, {"failure_ttl": -1}, {"failure_ttl": "1d"},
        {"meta": []}, {"meta": "x"}, {"group": ""}, {"group": 5}, {"group": "g" * 1025}, {"group": "\0"},
        {"group": "\ud800"},
        {"on_success": lambda: None}, {"on_failure": 5}, {"on_stopped": "not a path"},
        {"repeat": 3}, {"failure_mode": "drop"}, {"schedule_name": ""},
        {"depends_on": "no uuid"}, {"depends_on": 5}, {"depends_on": [None]}, {"depends_on": Job()},
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(EnqueueError):
        make(**options)


def test_the_option_is_named_in_the_error() -> None:
    wrong: dict[str, Any] = {"priority": 99999, "delay": -1, "timeout": 0, "ttl": 0, "queue": ""}
    for option, value in wrong.items():
        with pytest.raises(EnqueueError, match=f"_{option}"):
            make(**{option: value})


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("_prioritie", "_priority"), ("_timout", "_timeout"), ("_depend_on", "_depends_on"), ("_que", "_queue")],
)
def test_an_unknown_option_is_refused_with_the_nearest_named(wrong: str, near: str) -> None:
    with pytest.raises(EnqueueError, match=f"did you mean {near}"):
        split_options({wrong: 1})


def test_an_option_like_no_other_gets_the_list_of_all() -> None:
    with pytest.raises(EnqueueError, match="there are _at, _delay"):
        split_options({"_zzzzzz": 1})


def test_options_are_parted_from_arguments() -> None:
    assert split_options({"a": 1, "_key": "k", "_conn": 5}, frozenset({"conn"})) == ({"key": "k", "conn": 5}, {"a": 1})
    assert set(enqueue_options.OPTIONS) == {
        "queue", "priority", "delay", "at", "retry", "timeout", "heartbeat", "key", "group", "meta", "result_ttl",
        "failure_ttl", "ttl", "on_success", "on_failure", "on_stopped", "repeat", "depends_on", "failure_mode",
        "schedule_name",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (handlers.nameless, "lambda"), (handlers.make_local(), "inside a function"), (handlers.partly, "partial"),
        (handlers.Service().method, "method"), (handlers.Service.make, "method"), (handlers.instance, "no name"),
        (5, "cannot be enqueued"), (None, "cannot be enqueued"), ("nodots", "dotted path"), ("a..b", "dotted path"),
        ("a.b c", "dotted path"), ("", "dotted path"), ("os.system; x.y", "dotted path"),
    ],
)  # fmt: skip
def test_what_no_worker_could_import_is_refused_with_the_reason(func: Any, reason: str) -> None:
    with pytest.raises(EnqueueError, match=reason):
        make(func)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (handlers.add, (), {}), (handlers.add, (1, 2, 3), {}), (handlers.add, (1,), {"c": 1}), (handlers.add, (1,),
        {"a": 1}),
        (handlers.named, (), {}), (handlers.named, (1, 2), {}), ("tests.core.handlers.add", (), {}),
        (handlers.keyword_only, (1,), {}), (handlers.task, (), {}), ("tests.core.handlers.missing", (), {}),
    ],
)  # fmt: skip
def test_a_wrong_call_is_refused_where_it_is_made(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(EnqueueError):
        new_job(func, args, kwargs, {}, DEFAULTS, new_id)


@pytest.mark.parametrize(
    ("func", "args", "path"),
    [
        (handlers.add, (1,), "tests.core.handlers.add"), (handlers.named, (1,), "tests.core.handlers.named"),
        (handlers.annotated, (1,), "tests.core.handlers.annotated"), (handlers.Service.static, (1,),
        "tests.core.handlers.Service.static"),
        (handlers.annotated_in_text, (1,), "tests.core.handlers.annotated_in_text"), (handlers.task, (1,),
        "tests.core.handlers.add"),
        ("elsewhere.unknown", (1, 2, 3), "elsewhere.unknown"), (handlers.anything, (1, 2),
        "tests.core.handlers.anything"),
    ],
)  # fmt: skip
def test_a_right_call_is_taken(func: Any, args: tuple[Any, ...], path: str) -> None:
    made = new_job(func, args, {}, {}, DEFAULTS, new_id)
    assert made.values["function"] == path
    assert made.payload == {"args": list(args)}


def test_no_arguments_need_no_payload() -> None:
    assert "payload" not in make().values


def test_arguments_that_cannot_be_stored_are_refused_with_the_function_named() -> None:
    with pytest.raises(SerializationError, match=r"arguments of app\.work"):
        make("app.work", object())
    with pytest.raises(SerializationError, match="max_payload_bytes=10"):
        make("app.work", "x" * 20, defaults=Defaults(JSONSerializer(), max_payload_bytes=10))
    with pytest.raises(SerializationError, match="_meta"):
        make(meta={"a": object()})


def test_a_serializer_of_bytes_stores_the_whole() -> None:
    assert make("app.work", {1, 2}, defaults=Defaults(PickleSerializer())).values["payload"].startswith('{"$bytes"')


def test_the_habits_of_an_app_hold_unless_the_job_says_otherwise() -> None:
    defaults = Defaults(JSONSerializer(), backoff=False, result_ttl=5.0, failure_ttl=6.0)
    found = make(defaults=defaults, retry=2, failure_ttl=0).values
    assert (found["result_ttl"], found["failure_ttl"], found["retry_intervals"]) == (5.0, 0.0, "[0]")
    assert "retry_intervals" not in make(retry=2).values


def test_dependencies_are_taken_once_each_and_the_strict_one_wins() -> None:
    other = "00000000-0000-7000-8000-00000000000b"
    found = make(
        depends_on=[Dependency(ID, allow_failure=True), ID.upper(), Dependency(Job(id=other), allow_failure=True)]
    )
    assert found.depends_on == ((ID, False), (other, True))


def test_bulk_entries_have_the_same_options() -> None:
    params = EnqueueParams("app.work", (1,), queue="q", priority=0, delay=5)
    assert params_of(params) == {"queue": "q", "priority": 0, "delay": 5}


# Hooks ----------------------------------------------------------------------------


def hooked(*hooks: Any, args: tuple[Any, ...] = (1,), **options: Any) -> NewJob:
    return new_job("app.work", args, {"b": 2}, options, DEFAULTS, new_id, hooks)


def test_a_hook_sees_the_job_and_may_change_it() -> None:
    seen = []

    def hook(job: Job) -> None:
        seen.append((job.function, job.args, job.kwargs, job.queue, job.meta, job.priority))
        job.meta = {**(job.meta or {}), "by": "hook"}
        job.queue, job.priority, job.timeout_secs = "other", 7, 3.0
        job.payload["args"] = [5]

    found = hooked(hook, meta={"a": 1})
    assert seen == [("app.work", (1,), {"b": 2}, "default", {"a": 1}, 0)]
    assert (found.values["queue"], found.values["priority"], found.values["timeout_secs"]) == ("other", 7, 3.0)
    assert (found.values["meta"], found.values["payload"]) == ('{"a":1,"by":"hook"}', '{"args":[5],"kwargs":{"b":2}}')


def test_a_hook_that_changes_nothing_changes_nothing() -> None:
    options: dict[str, Any] = {
        "key": "k",
        "retry": Retry(3, [1]),
        "group": Group("g", 2),
        "repeat": Repeat(2, intervals=[1]),
        "delay": 5,
    }
    plain, seen = hooked(**options), hooked(lambda _job: None, **options)
    assert {**plain.values, "id": 0} == {**seen.values, "id": 0}


def test_an_error_in_a_hook_enqueues_nothing() -> None:
    def hook(_job: Job) -> None:
        raise PermissionError("not today")

    with pytest.raises(PermissionError, match="not today"):
        hooked(hook)


@pytest.mark.parametrize(
    ("name", "value"), [("queue", ""), ("priority", 10**6), ("key", "\0"), ("failure_mode", "x"), ("ttl", -1)]
)
def test_what_a_hook_sets_is_checked_too(name: str, value: Any) -> None:
    with pytest.raises(EnqueueError, match="hook"):
        hooked(lambda job: setattr(job, name, value))


def test_a_hook_may_take_something_away() -> None:
    def hook(job: Job) -> None:
        job.key = None
        job.payload = None

    found = hooked(hook, key="k")
    assert "key" not in found.values
    assert "payload" not in found.values
