"""Bad input: refused before anything is written, with an error that says what and what to do."""

import functools
import time
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgwerk import (
    Callback,
    ConfigError,
    ConnectionFailed,
    EnqueueError,
    EnqueueParams,
    JobNotFound,
    Repeat,
    SchemaVersionMismatch,
    SerializationError,
    Werk,
    WerkConfig,
    WerkError,
)
from tests.workers import handlers


def local_function() -> Any:
    def inner() -> None: ...

    return inner


class Thing:
    def method(self) -> None: ...


BAD_CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any], str]] = {
    "a lambda": (lambda: 1, (), {}, "lambda"),
    "a local function": (local_function(), (), {}, "inside a function"),
    "a partial": (functools.partial(handlers.add, 1), (), {}, "partial of add"),
    "a method": (Thing().method, (), {}, "method Thing.method"),
    "no function": (42, (), {}, "module-level function"),
    "no path": ("nodots", (), {}, "package.module.function"),
    "a path with code in it": ("os.system('x')", (), {}, "dotted path"),
    "a function that its module lacks": ("tests.workers.handlers.nothing", (), {}, "has no function"),
    "a missing argument": (handlers.add, (1,), {}, "missing a required argument: 'b'"),
    "too many arguments": (handlers.add, (1, 2, 3), {}, "too many positional arguments"),
    "an unknown argument": (handlers.add, (1, 2), {"c": 3}, "unexpected keyword argument 'c'"),
    "an unknown option": (handlers.noop, (), {"_prioritty": 1}, "did you mean _priority"),
    "a priority out of range": (handlers.noop, (), {"_priority": 40_000}, "from -32768 to 32767"),
    "a negative delay": (handlers.noop, (), {"_delay": -1}, "_delay=-1"),
    "a delay that is no number": (handlers.noop, (), {"_delay": "soon"}, "_delay takes"),
    "an endless delay": (handlers.noop, (), {"_delay": float("inf")}, "at most ten years"),
    "a time that is none": (handlers.noop, (), {"_at": "tomorrow"}, "_at takes a datetime"),
    "no timeout": (handlers.noop, (), {"_timeout": 0}, "greater than 0"),
    "negative attempts": (handlers.noop, (), {"_retry": -1}, "_retry=-1"),
    "an empty queue": (handlers.noop, (), {"_queue": ""}, "_queue=''"),
    "a key with NUL": (handlers.noop, (), {"_key": "a\0b"}, "without NUL"),
    "meta that is no dict": (handlers.noop, (), {"_meta": [1]}, "_meta takes a dict"),
    "a group that is none": (handlers.noop, (), {"_group": 3}, "Group"),
    "a repeat that is none": (handlers.noop, (), {"_repeat": 3}, "_repeat takes a Repeat"),
    "a callback that cannot be imported": (handlers.noop, (), {"_on_success": Callback(lambda _j: 1)}, "lambda"),
    "a failure mode that is none": (handlers.noop, (), {"_failure_mode": "drop"}, "'hold' or 'delete'"),
    "a dependency that is no job": (handlers.noop, (), {"_depends_on": "x"}, "is not a job"),
    "a dependency that does not exist": (
        handlers.noop,
        (),
        {"_depends_on": "01890000-0000-7000-8000-000000000000"},
        "does not exist",
    ),
    "a connection that is none": (handlers.noop, (), {"_conn": object()}, "_conn takes"),
    "a set": (handlers.echo, ({1},), {}, "set has no JSON form"),
    "an object": (handlers.echo, (object(),), {}, "object has no JSON form"),
    "not a number": (handlers.echo, (float("nan"),), {}, "cannot be encoded"),
    "NUL in an argument": (handlers.echo, ("a\0b",), {}, "NUL"),
    "a lone surrogate": (handlers.echo, ("\ud800",), {}, "Unicode"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_bad_call_is_refused_with_its_reason_and_nothing_is_written(app: Werk, name: str) -> None:
    func, args, kwargs, reason = BAD_CALLS[name]
    with pytest.raises((EnqueueError, SerializationError)) as caught:
        app.enqueue(func, *args, **kwargs)
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message, "one paragraph"
    assert app.list_jobs() == []


def test_one_bad_job_of_a_bulk_refuses_all(app: Werk) -> None:
    specs = [EnqueueParams(handlers.noop), EnqueueParams(handlers.noop, priority=10**9)]
    with pytest.raises(EnqueueError, match="_priority"):
        app.enqueue_many(specs)
    with pytest.raises(EnqueueError, match="number 1 is"):
        app.enqueue_many([EnqueueParams(handlers.noop), handlers.noop])  # type: ignore[list-item]
    assert app.list_jobs() == []


@pytest.mark.parametrize(
    ("dsn", "kind"),
    [
        ("mysql://localhost/x", ConfigError),
        ("host=localhost nonsense=1", ConfigError),
        ("postgresql://u@127.0.0.1:1/x", ConnectionFailed),
        ("postgresql://u:secret@127.0.0.1:1/x", ConnectionFailed),
    ],
)
def test_a_bad_dsn_is_named_at_once_without_its_password(dsn: str, kind: type[WerkError]) -> None:
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        Werk(dsn).enqueue(handlers.noop)
    assert time.monotonic() - started < 10
    assert "DSN" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_dsn_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGWERK_DSN", "DATABASE_URL", "PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="PGWERK_DSN"):
        Werk()


def test_missing_tables_say_how_to_create_them(dsn: str, schema: str, pg: "psycopg.Connection[Any]") -> None:
    app = Werk(dsn, schema=schema, auto_migrate=False)
    with pytest.raises(SchemaVersionMismatch, match="werk migrate"):
        app.enqueue(handlers.noop)
    with pg.transaction(), pytest.raises(SchemaVersionMismatch, match="werk migrate"), pg.transaction():
        app.enqueue(handlers.noop, _conn=pg)
    assert pg.execute("select to_regnamespace(%s)", [schema]).fetchone() == (None,)
    app.close()


def test_a_table_dropped_under_a_running_app_says_so(app: Werk, schema: str, pg: "psycopg.Connection[Any]") -> None:
    pg.execute(sql.SQL("drop schema {} cascade").format(sql.Identifier(schema)))
    with pytest.raises(SchemaVersionMismatch, match="werk migrate"):
        app.enqueue(handlers.noop)


@pytest.mark.parametrize("value", ["x", "", "123", None, 7])
def test_an_id_that_is_none_is_a_job_that_is_not_found(app: Werk, value: Any) -> None:
    with pytest.raises(JobNotFound):
        app.get_job(value)
    with pytest.raises(LookupError):
        app.delete_job(value)


@pytest.mark.parametrize(
    "settings",
    [
        {"schema": "x" * 64},
        {"prefix": ""},
        {"prefix": "a\0b"},
        {"config": {"poll_interval": 0}},
        {"config": {"no_such": 1}},
        {"config": 3},
        {"serializer": "json"},
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Werk("postgresql://localhost/x", **settings)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGWERK_POLL_INTERVAL", "2.5")
    monkeypatch.setenv("PGWERK_ALLOW_TRUNCATE", "on")
    assert WerkConfig.from_env().poll_interval == 2.5
    assert WerkConfig.from_env().allow_truncate is True
    monkeypatch.setenv("PGWERK_POOL", "maybe")
    with pytest.raises(ConfigError, match="PGWERK_POOL"):
        WerkConfig.from_env()


def test_truncate_has_to_be_allowed(dsn: str, schema: str) -> None:
    with Werk(dsn, schema=schema) as app, pytest.raises(WerkError, match="allow_truncate"):
        app.truncate()


def test_options_that_make_no_sense_are_value_errors() -> None:
    with pytest.raises(ValueError, match="times"):
        Repeat(0)
