"""What Postgres refuses, memory refuses with an error of the same class; what it stores, memory stores as the same."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgwerk._app.clock import new_id
from pgwerk._core.operation import Operation
from pgwerk._core.statements import admin, enqueue, queries, running, workers
from pgwerk._memory import backend
from pgwerk._memory.jsonb import jsonb
from pgwerk._memory.store import Store
from pgwerk._memory.values import seconds_text
from pgwerk.errors import DatabaseError, SerializationError, WerkError
from tests.fixtures.run import Run

pytestmark = pytest.mark.postgres  # each of them compares both

TOO_LARGE = 2**31
ENDS = [datetime(1, 1, 5, tzinfo=UTC), datetime(9950, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)]
REFUSED: list[dict[str, Any]] = [
    *({"payload": text} for text in ("{", "", "01", "NaN", r'"\u0000"', r'{"\u0000": 1}', r'"\ud800"', "1e200000")),
    *({"meta": text} for text in ('"a\0b"', r'"\udc00\ud800"', "[Infinity]", "{'a': 1}", '"\n"', '{"a" 1}')),
    *({"priority": number} for number in (-32769, 32768, 2**40)),
    *({"max_attempts": number} for number in (-1, 10**9 + 1, TOO_LARGE)),
    *({"group_key": "one", "group_limit": number} for number in (0, 10001, TOO_LARGE)),
    *({"repeat_remaining": number} for number in (TOO_LARGE, -TOO_LARGE - 1)),
    *({name: TOO_LARGE} for name in ("max_lost",)),
    *({name: number} for number in (-0.5, 1e9 + 1, float("nan"), float("inf"))
      for name in ("timeout_secs", "heartbeat_secs", "wait_delay", "result_ttl", "on_stopped_timeout")),
    *({"ttl": number} for number in (-0.5, 1e9 + 1, 1e300)),
    *({"at": at} for at in ENDS),
    *({"delay": seconds} for seconds in (3e11, 1e13, 1e300)),
    *({name: "x" * 4097} for name in ("function", "on_success", "on_failure", "on_stopped")),
    *({name: "ä" * 600} for name in ("queue", "group_key")),
    *({name: "a\0b"} for name in ("queue", "key", "function", "schedule_name")),
    *({name: None} for name in ("function", "queue", "priority", "id")),
    {"group_key": ""}, {"failure_mode": "delete "}, {"id": "x"}, {"callback_of": "12"},
]  # fmt: skip
TAKEN: list[dict[str, Any]] = [
    {"payload": '{"b":1,"a":[1.50,1E2,-0.0,{"ccc":null,"bb":"\\u00e4\\n"}],"a":2}'}, {"meta": "1e400"},
    {"queue": "ä" * 512}, {"group_key": "x" * 1024, "group_limit": 10000}, {"ttl": 1e9}, {"delay": 1e9},
    {"at": datetime(9899, 12, 31, tzinfo=UTC), "ttl": 1.0}, {"at": datetime(2, 1, 2, tzinfo=UTC), "ttl": 1.0},
    {"timeout_secs": 0.0}, {"key": ""}, {"function": ""}, {"max_lost": -5},
    {"callback_of": "0197C2F0-6F0C-7B7E-9D0A-3A1D1C3B2A10"},
    {"max_attempts": 10**9}, {"no_retry": "[]", "repeat_intervals": "[0.1]"},
]  # fmt: skip


def raised(run: Callable[[], Any]) -> Any:
    """What was raised, or what came back."""
    try:
        return run()
    except DatabaseError as error:
        return DatabaseError, error.sqlstate
    except WerkError as error:
        return type(error)


@pytest.fixture
def store() -> Store:
    return Store()


def shown(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r:.40}" for name, value in values.items())


def many(values: dict[str, Any]) -> Operation[Any]:
    other = {"id": new_id(), "function": "f"}
    return enqueue.insert_many([other, {"id": new_id(), "function": "f", **values}], always_tell=False)


@pytest.mark.parametrize("values", REFUSED, ids=shown)
def test_what_postgres_refuses_is_refused(run: Run, store: Store, values: dict[str, Any]) -> None:
    one = enqueue.insert({"id": new_id(), "function": "f", **values}, always_tell=False)
    for op in (one, many(values)):
        there, here = raised(partial(run, op)), raised(partial(backend.run, store, op))
        if isinstance(there, list):
            # Of many, a missing value is the default.
            assert len(there) == len(here) == 2
            store.jobs.clear()
            continue
        assert here == there
        assert not store.jobs


@pytest.mark.parametrize("values", TAKEN, ids=shown)
def test_what_postgres_takes_is_taken(run: Run, store: Store, values: dict[str, Any]) -> None:
    id_ = new_id()
    insert = enqueue.insert({"id": id_, "function": "f", **values}, always_tell=False)
    for found in (run(insert), backend.run(store, insert)):
        assert [one.id for one in found] == [id_]
    there, here = run(queries.get(id_, json.loads)), backend.run(store, queries.get(id_, json.loads))
    assert there is not None
    assert here is not None
    times = ("scheduled_at", "enqueued_at", "expires_at")
    for name in times:
        one, other = getattr(there, name), getattr(here, name)
        assert one == other or abs(one - other).total_seconds() < 20
        setattr(here, name, one)
    assert vars(here) == vars(there)
    assert json.dumps(here.payload) == json.dumps(there.payload), "also in the order of keys, and the kinds of numbers"


@pytest.mark.parametrize(
    "op",
    [
        queries.get("x", json.loads), queries.get_by_key("a\0b", json.loads), running.touch([("x", 1)]),
        admin.pause("a\0b", None), workers.register("x", "n", [], {}, 1.0), workers.want_notify("x"),
        workers.living("x"),
        workers.register(new_id(), "n", [], {"a": "\0"}, 1.0), workers.register(new_id(), "n", [], {}, 1e300),
        running.progress(new_id(), 1, "{"), queries.get(new_id().upper(), json.loads),
        admin.count_purgeable(["complete"], 1e11), admin.count_purgeable(["complete"], 1e300),
        workers.lost_claims(1e300, 1, float("inf")),
    ],
    ids=lambda op: op.factory.__name__,
)  # fmt: skip
def test_other_statements_refuse_the_same(run: Run, store: Store, op: Any) -> None:
    assert raised(lambda: backend.run(store, op)) == raised(lambda: run(op))


# JSON ---------------------------------------------------------------------------------------------


@pytest.fixture
def postgres(dsn: str) -> Iterator[Callable[[str], "str | None"]]:
    """What Postgres makes of a text as jsonb; None when it refuses it."""
    with psycopg.connect(dsn, autocommit=True) as connection:

        def read(text: str) -> str | None:
            try:
                row = connection.execute("select %s::jsonb::text", [text]).fetchone()
            except psycopg.DataError:
                return None
            assert row is not None
            return str(row[0])

        yield read


numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
strings = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map(json.dumps) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
).map(lambda text: json.dumps(text, ensure_ascii=False))
values = st.recursive(
    numbers
    | strings
    | st.sampled_from(["null", "true", "false", "NaN", "-Infinity", r'"\u0000"', r'"\ud834"', "1.", "nul"]),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{' , '.join(items)}]")
        | st.lists(st.tuples(strings, inner), max_size=4).map(
            lambda items: f"{{{','.join(f'{key}: {item}' for key, item in items)}}}"
        )
    ),
)


@given(text=values)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_is_stored_as_by_postgres(postgres: Callable[[str], "str | None"], text: str) -> None:
    def here() -> str | None:
        try:
            return jsonb(text)
        except SerializationError:
            return None

    assert here() == postgres(text)


def test_json_that_is_too_deep_is_refused() -> None:
    with pytest.raises(SerializationError, match="too deeply"):
        _ = jsonb("[" * 100_000 + "]" * 100_000)


@pytest.mark.parametrize("number", [0.1, 1.0, 1e9, 123456789.5, 1e-7, 30.0, 1e-4, 2.5e-05, 100000.0, 1234567.25])
def test_numbers_are_written_as_by_postgres(dsn: str, number: float) -> None:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select %s::double precision::text", [number]).fetchone()
    assert row == (seconds_text(number),)


@pytest.mark.parametrize("values", [{}, {"payload": '{"args":[1]}'}, {"payload": "{"}, {"priority": 40000}], ids=shown)
def test_many_are_inserted_all_or_none(run: Run, store: Store, values: dict[str, Any]) -> None:
    jobs = [{"id": new_id(), "function": "f", **values} for _ in range(60)]

    def ids(found: Any) -> Any:
        return [one.id for one in found] if isinstance(found, list) else found

    for some in (jobs, jobs, [*jobs[:59], {**jobs[59], "id": new_id()}]):
        op = enqueue.insert_many(some, always_tell=False)
        there, here = ids(raised(partial(run, op))), ids(raised(partial(backend.run, store, op)))
        assert here == there
    assert len(store.jobs) == len(run(queries.ends(sorted(store.jobs))))
