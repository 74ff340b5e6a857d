"""What an app shows of itself, on both faces: the public names, where it is, and the options of its methods."""

import inspect
import threading
from collections.abc import Callable
from typing import Any, get_overloads

import pytest

import pgwerk
from pgwerk import WerkConfig, aio
from pgwerk._app.once import Once
from pgwerk._core.enqueue_options import OPTIONS
from pgwerk._core.options import EnqueueParams, TaskOptions

DSN = "postgresql://me:hunter2@db.example:5433/jobs"

DOCUMENTED = tuple(
    """
    connect disconnect close on_startup on_shutdown
    enqueue enqueue_many enqueue_at enqueue_in apply map wait_for task
    get_job list_jobs get_executions get_job_dependencies get_queue_stats list_workers
    cancel_job requeue_job abort_job delete_job touch_job update_job bulk_requeue_jobs bulk_cancel_jobs purge_jobs
    pause_queue resume_queue sweep vacuum truncate register_before_enqueue unregister_before_enqueue middleware
    config dsn schema prefix serializer aio sync in_memory
    """.split()  # noqa: SIM905  # as lines of words it can be compared with the documents
)
FOR_OPERATORS = ("migrate", "migration_sql", "pending_migrations", "schema_version", "server_version", "where")
"""What the command line needs, and whoever deploys without it."""

IN_MEMORY = ("clock",)
"""What only an app in memory has."""

each_face = pytest.mark.parametrize("kind", [pgwerk.Werk, aio.Werk], ids=["sync", "aio"])


@each_face
def test_completion_shows_public_names_only(kind: Any) -> None:
    app = kind(DSN)
    assert [name for name in dir(app) if not name.startswith("_")] == sorted(DOCUMENTED + FOR_OPERATORS + IN_MEMORY)
    undocumented = [name for name in DOCUMENTED + FOR_OPERATORS + IN_MEMORY if not inspect.getdoc(getattr(kind, name))]
    assert undocumented == []


@each_face
def test_an_app_says_where_it_is_and_not_its_password(kind: Any) -> None:
    app = kind(DSN, schema="work", prefix="_mine")
    assert (app.dsn, app.schema, app.prefix) == (DSN, "work", "_mine")
    assert app.where == "me@db.example:5433/jobs"
    module = "pgwerk" if kind is pgwerk.Werk else "pgwerk.aio"
    assert repr(app) == f"<{module}.Werk me@db.example:5433/jobs, schema 'work', prefix '_mine'>"


@each_face
@pytest.mark.parametrize("schema", ["", "public"])
def test_unqualified_names_have_no_schema(kind: Any, schema: str) -> None:
    app = kind(DSN, schema=schema)
    assert app.schema == ""
    assert "schema 'public'" in repr(app)


@each_face
def test_a_private_server_is_shown_by_its_directory(kind: Any) -> None:
    app = kind("embedded:///srv/queue")
    assert app.where == "embedded:///srv/queue"
    assert "embedded:///srv/queue" in repr(app)


@each_face
def test_a_subclass_is_named_as_itself(kind: Any) -> None:
    class Mine(kind):  # type: ignore[misc]
        """Somebody's own."""

    app = Mine(DSN, config=WerkConfig(schema="s"))
    assert repr(app).startswith(f"<{__name__}.{Mine.__qualname__} me@db")
    assert "hunter2" not in repr(app)


def test_what_is_made_once_is_the_same_for_threads_that_meet() -> None:
    for _ in range(50):
        barrier = threading.Barrier(4)

        def make(barrier: threading.Barrier = barrier) -> object:
            _ = barrier.wait()
            return object()

        once = Once(make)
        assert once.made is None
        found: list[object] = []
        threads = [threading.Thread(target=lambda once=once, found=found: found.append(once())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(one) for one in found}) == 1
        assert once.made is found[0]


def test_what_could_not_be_made_is_tried_again() -> None:
    answers = iter([OSError("not yet"), None])

    def make() -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "made"

    once = Once(make)
    with pytest.raises(OSError, match="not yet"):
        _ = once()
    assert (once.made, once()) == (None, "made")


# Options --------------------------------------------------------------------------

CALLS = {"conn", "sync"}


def options_of(function: Callable[..., Any]) -> list[set[str]]:
    """The options that each overload of a method names."""
    found = get_overloads(function)
    assert found, "overloads name the options for type checkers and editors"
    return [{name[1:] for name in inspect.signature(one).parameters if name.startswith("_")} for one in found]


@each_face
@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("enqueue", OPTIONS | CALLS),
        ("enqueue_at", OPTIONS | CALLS - {"at", "delay"}),
        ("enqueue_in", OPTIONS | CALLS - {"at", "delay"}),
        ("apply", OPTIONS | {"sync"}),
        ("map", OPTIONS | {"sync"}),
    ],
)
def test_every_option_is_a_parameter(kind: Any, method: str, wanted: frozenset[str]) -> None:
    if method in ("enqueue_at", "enqueue_in"):
        wanted -= {"at", "delay"}
    if method == "map":
        wanted -= {"key"}
    for named in options_of(getattr(kind, method)):
        assert named == wanted


def test_tasks_have_every_option_too() -> None:
    assert set(TaskOptions.__annotations__) | {"key"} == OPTIONS | CALLS
    for name in TaskOptions.__annotations__:
        if name not in CALLS:
            assert TaskOptions.__annotations__[name] == EnqueueParams.__annotations__[name], name
