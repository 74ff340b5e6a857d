"""Enqueue through Django's connection, in a process of its own because Django is configured once.

Arguments: DSN, schema, and which of the two drivers Django should find.
"""

import sys
from importlib import import_module
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgwerk import EnqueueError, EnqueueParams, Werk
from tests.contrib.handlers import work


def configure(dsn: str, driver: str) -> None:
    settings: dict[str, Any] = dict(conninfo_to_dict(dsn))
    if driver == "psycopg2":
        # Django takes psycopg 3 wherever it is installed: hide it while Django chooses.
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "psycopg"}
        sys.modules["psycopg"] = None  # type: ignore[assignment]
        import_module("django.db.backends.postgresql.base")
        sys.modules.update(hidden)

    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": settings["dbname"],
        "USER": settings["user"],
        "PASSWORD": settings.get("password", ""),
        "HOST": settings["host"],
        "PORT": settings.get("port", ""),
    }
    import_module("django.conf").settings.configure(
        DATABASES={"default": database, "other": dict(database)}, USE_TZ=True
    )
    import_module("django").setup()


def main() -> None:
    dsn, schema, driver = sys.argv[1:]
    configure(dsn, driver)
    db = import_module("django.db")
    connection, transaction = db.connection, db.transaction
    werk = Werk(dsn, schema=schema)
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    assert type(connection.connection).__module__.partition(".")[0] == driver, type(connection.connection)

    def keys() -> list[str]:
        return sorted(job.key or "" for job in werk.list_jobs())

    # Outside of atomic(), Django is in autocommit.
    werk.enqueue(work, _conn=connection, _key="plain")
    werk.enqueue_many([EnqueueParams(func=work, key="many1"), EnqueueParams(func=work, key="many2")], _conn="default")
    assert keys() == ["many1", "many2", "plain"], keys()
    assert connection.get_autocommit()

    with transaction.atomic():
        assert werk.enqueue(work, _conn=connection, _key="committed")
        assert werk.enqueue(work, _conn="default", _key="plain") is None
        assert "committed" not in keys()
        with connection.cursor() as cursor:
            cursor.execute("select 1")
    assert "committed" in keys()

    with transaction.atomic():
        werk.enqueue(work, _conn=connection, _key="rolled back")
        transaction.set_rollback(True)
    with transaction.atomic():
        with transaction.atomic():
            werk.enqueue(work, _conn=connection, _key="inner, rolled back")
            transaction.set_rollback(True)
        werk.enqueue(work, _conn=db.connections["other"], _key="other")
        assert "other" in keys()
        werk.enqueue(work, _conn=connection, _key="outer")
    assert connection.get_autocommit()
    assert keys() == ["committed", "many1", "many2", "other", "outer", "plain"], keys()

    with transaction.atomic():
        # Django reads JSON by itself, on the same connection.
        job = werk.enqueue(work, 1, _conn=connection, _sync=True, _meta={"a": 1})
        assert job is not None
        assert (job.result, job.meta) == ([1, {}], {"a": 1}), job
    with pytest.raises(EnqueueError, match="nowhere"):
        werk.enqueue(work, _conn="nowhere")
    werk.close()
    sys.stdout.write("fine")


if __name__ == "__main__":
    main()
