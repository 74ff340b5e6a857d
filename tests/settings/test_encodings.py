"""Databases in another encoding than UTF-8: what has no character there is refused before, or replaced in errors."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgwerk import JobStatus, Retry, SerializationError, ThreadWorker, Werk
from pgwerk._postgres.adapting import fitting
from tests.exactness.helpers import enqueued
from tests.fixtures.workers import running
from tests.settings.conftest import Hostile

HERE = "tests.settings.handlers"


def test_in_latin1_what_fits_comes_back(hostile: Hostile) -> None:
    with Werk(hostile(encoding="LATIN1")) as app:
        job = enqueued(app.enqueue(f"{HERE}.work", "é", _key="é", _meta={"é": "ü"}))
        ThreadWorker(app, burst=True).run()
        found = app.get_job(job)
        assert (found.args, found.result, found.key, found.meta) == (("é",), [["é"], {}], "é", {"é": "ü"})


@pytest.mark.parametrize(
    ("args", "options"),
    [(("€",), {}), ((), {"_key": "€"}), ((), {"_queue": "€"}), ((), {"_meta": {"a": "€"}}), ((), {"_group": "€"})],
)
def test_in_latin1_what_does_not_fit_is_refused(
    hostile: Hostile, args: tuple[str, ...], options: dict[str, Any]
) -> None:
    dsn = hostile(encoding="LATIN1")
    with Werk(dsn) as app, psycopg.connect(dsn) as conn:
        places: list[dict[str, Any]] = [{}, {"_conn": conn}]
        for given in places:
            with pytest.raises(SerializationError, match=r"holds '€'.*the database"):
                app.enqueue(f"{HERE}.work", *args, **options, **given)
        assert conn.execute("select 1").fetchone() == (1,)
        assert app.list_jobs() == []


def test_in_latin1_an_error_is_stored_with_what_it_lacks_replaced(hostile: Hostile) -> None:
    with Werk(hostile(encoding="LATIN1")) as app:
        failed = enqueued(app.enqueue(f"{HERE}.failing", "10 \u20ac".encode("ascii", "backslashreplace").decode()))
        euro = enqueued(app.enqueue(f"{HERE}.failing_in_euro", _retry=Retry(2)))
        dependent = enqueued(app.enqueue(f"{HERE}.work", _depends_on=euro))
        ThreadWorker(app, burst=True).run()
        assert app.get_job(failed).reason == "ValueError: 10 \\u20ac"
        found = app.get_job(euro)
        # Tried as often as it was to be: that its error could not be stored would have been final.
        assert (found.status, found.attempts, found.reason) == (JobStatus.FAILED, 2, "ValueError: é 10 \\u20ac")
        assert app.get_job(dependent).status is JobStatus.FAILED


def test_in_latin1_a_result_that_does_not_fit_fails_the_job_and_no_worker(hostile: Hostile) -> None:
    with Werk(hostile(encoding="LATIN1")) as app:
        job = enqueued(app.enqueue(f"{HERE}.euro"))
        other = enqueued(app.enqueue(f"{HERE}.work"))
        ThreadWorker(app, burst=True).run()
        found = app.get_job(job)
        assert found.status is JobStatus.FAILED
        assert "could not be stored" in (found.reason or "")
        assert app.get_job(other).status is JobStatus.COMPLETE


def test_without_an_encoding_everything_goes(hostile: Hostile) -> None:
    dsn = hostile(encoding="SQL_ASCII")
    with Werk(dsn) as app:
        job = enqueued(app.enqueue(f"{HERE}.work", "€ ü", _key="€", _meta={"€": "ü"}))
        failed = enqueued(app.enqueue(f"{HERE}.failing_in_euro"))
        # What another client left there in another encoding must not keep anybody from reading the rest.
        with psycopg.connect(dsn, client_encoding="SQL_ASCII", autocommit=True) as other:
            other.execute(b"insert into pgwerk._pgwerk_jobs (function, key) values ('nowhere.f', E'\\xe9')")
        ThreadWorker(app, burst=True).run()
        found = app.get_job(job)
        assert (found.args, found.result, found.key, found.meta) == (("€ ü",), [["€ ü"], {}], "€", {"€": "ü"})
        assert app.get_job(failed).reason == "ValueError: é 10 €"
        assert {one.key for one in app.list_jobs()} == {"€", None, "\ufffd"}


def test_a_notification_of_any_bytes_does_not_disturb_a_worker(
    hostile: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = hostile(encoding="SQL_ASCII")
    with Werk(dsn) as app, running(ThreadWorker, app, concurrency=1):
        app.apply(f"{HERE}.work", timeout=20)
        with psycopg.connect(dsn, client_encoding="SQL_ASCII", autocommit=True) as other:
            for _ in range(3):
                other.execute(f"notify {quoted(app._app.names.wake_channel)}, '".encode() + b"q\xe9\xff'")
                assert app.apply(f"{HERE}.work", timeout=20) is not None
        assert [worker.status for worker in app.list_workers()] == ["active"]
    assert [record.getMessage() for record in caplog.records if record.levelno > 20] == []


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_only_what_does_not_fit_is_changed() -> None:
    params = {"key": "é", "payload": '{"a":"é"}', "errors": ["é", None], "n": 1}
    assert fitting(params, b"UTF8", b"LATIN1") == params
    assert fitting(params, b"LATIN1", b"UTF8") == params
    assert fitting({"payload": '"€😀"'}, b"LATIN1", b"UTF8") == {"payload": '"\\u20ac\\ud83d\\ude00"'}
    assert fitting({"errors": ["€", None]}, b"UTF8", b"WIN1250") == {"errors": ["€", None]}
    assert fitting({"errors": ["日", None]}, b"UTF8", b"KOI8R") == {"errors": ["\\u65e5", None]}
    for unknown in (b"MULE_INTERNAL", None):
        assert fitting({"key": "日"}, b"UTF8", unknown) == {"key": "日"}


def test_the_migration_holds_no_backslash() -> None:
    """With standard_conforming_strings off it would mean something else."""
    root = Path(__file__).parents[2] / "pgwerk" / "_core" / "schema"
    for path in root.glob("*.sql"):
        assert "\\" not in path.read_text(), path
