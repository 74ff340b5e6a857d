"""What a team would ask of its jobs, through the application's own pages."""

import html
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from pgwerk import Job, JobStatus, Werk


def form(**values: Any) -> dict[str, Any]:
    """What a browser sends."""
    return {"token": str(uuid.uuid4()), "title": "October", "currency": "EUR", "sales": "tea, 1.50\ntea,2\n", **values}


def submit(client: FlaskClient, **values: Any) -> str:
    """Submit the form; the address of the report."""
    response = client.post("/reports", data=form(**values))
    assert response.status_code == 303, response.text
    return response.location


def state_of(client: FlaskClient, where: str) -> Any:
    return client.get(f"{where}.json").get_json()


def builds(werk: Werk) -> list[Job]:
    return [job for job in werk.list_jobs() if job.function.endswith(".build")]


def test_a_committed_report_is_built(client: FlaskClient, work: Callable[[], None]) -> None:
    where = submit(client, sales="tea, 1.50\ncoffee, 3\n\ntea,2")
    assert state_of(client, where)["job"]["status"] == "queued"
    work()
    found = state_of(client, where)
    assert found["totals"] == {"coffee": "3.00", "tea": "3.50"}
    assert found["job"] == {"id": found["job"]["id"], "status": "complete", "attempts": 1, "error": None}
    page = client.get(where).text
    assert "complete" in page
    assert "attempt 1 of 5" in page


def test_an_error_in_the_view_leaves_neither_report_nor_job(
    app: Flask, client: FlaskClient, werk: Werk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from examples.flask_app.database import Report, db  # noqa: PLC0415

    def broken(*_args: Any, **_options: Any) -> None:
        raise RuntimeError("just before the commit")

    monkeypatch.setattr(db.session, "commit", broken)
    assert client.post("/reports", data=form()).status_code == 500
    assert werk.list_jobs() == []
    with app.app_context():
        assert db.session.scalars(db.select(Report)).all() == []


def test_rolled_back_never_existed(app: Flask, werk: Werk, work: Callable[[], None]) -> None:
    from examples.flask_app import tasks  # noqa: PLC0415
    from examples.flask_app.database import Report, db  # noqa: PLC0415

    with app.app_context():
        db.session.add(Report(id="r", title="t", currency="EUR", sales="tea,1"))
        job = werk.enqueue(tasks.build, "r", _conn=db.session)
        assert job is not None
        db.session.rollback()
        work()
        assert werk.list_jobs() == []
        assert db.session.get(Report, "r") is None


def test_submitting_twice_gives_one_report_and_one_job(client: FlaskClient, werk: Werk) -> None:
    sent = form()
    first, second = (client.post("/reports", data=sent) for _ in range(2))
    assert (first.status_code, second.status_code) == (303, 303)
    assert first.location == second.location
    assert len(builds(werk)) == 1
    assert client.get("/").text.count("October</a>") == 1


def test_a_duplicate_key_is_none_and_the_transaction_goes_on(app: Flask, werk: Werk) -> None:
    from examples.flask_app import tasks  # noqa: PLC0415
    from examples.flask_app.database import Report, db  # noqa: PLC0415

    werk.enqueue(tasks.build, "r", _key="k")
    with app.app_context():
        db.session.add(Report(id="before", title="t", currency="EUR", sales="tea,1"))
        assert werk.enqueue(tasks.build, "r", _conn=db.session, _key="k") is None
        db.session.add(Report(id="after", title="t", currency="EUR", sales="tea,1"))
        db.session.commit()
        assert set(db.session.scalars(db.select(Report.id))) == {"before", "after"}


def test_the_connection_is_left_as_it_was(app: Flask, werk: Werk) -> None:
    from examples.flask_app import tasks  # noqa: PLC0415
    from examples.flask_app.database import Report, db  # noqa: PLC0415

    with app.app_context():
        driver: Any = db.session.connection().connection.driver_connection
        db.session.execute(db.text("select 1"))

        def facts() -> tuple[Any, ...]:
            return driver.autocommit, driver.info.transaction_status, driver.isolation_level, driver.row_factory

        before = facts()
        assert not driver.autocommit
        assert werk.enqueue(tasks.build, "r", _conn=db.session) is not None
        assert facts() == before
        assert db.session.connection().connection.driver_connection is driver
        db.session.add(Report(id="r", title="t", currency="EUR", sales="tea,1"))
        db.session.commit()
        assert len(builds(werk)) == 1


def test_an_unknown_rate_is_retried_until_it_is_known(
    client: FlaskClient, werk: Werk, work: Callable[[], None]
) -> None:
    where = submit(client, currency="sek", sales="tea, 100")
    work()
    state = state_of(client, where)["job"]
    assert (state["status"], state["attempts"]) == ("scheduled", 1)
    assert "the rate of SEK is not known yet" in state["error"]
    assert "the rate of SEK is not known yet" in client.get("/").text
    assert client.post("/rates", data={"currency": "SEK", "euros": "0.09"}).status_code == 303
    werk.update_job(state["id"], delay=0)  # rather than wait five seconds
    work()
    found = state_of(client, where)
    assert found["totals"] == {"tea": "9.00"}
    assert found["job"] == {"id": state["id"], "status": "complete", "attempts": 2, "error": None}


def test_bad_sales_fail_at_once_and_are_shown_escaped(client: FlaskClient, work: Callable[[], None]) -> None:
    evil = "<script>alert(1)</script>"
    where = submit(client, title=evil, sales=f"tea, 1\n{evil}, much")
    work()
    state = state_of(client, where)["job"]
    assert (state["status"], state["attempts"]) == ("failed", 1)
    assert "line 2" in state["error"]
    for page in (client.get(where).text, client.get("/").text):
        assert evil not in page
        assert html.escape(evil) in page


def test_a_delayed_report_waits(client: FlaskClient, werk: Werk, work: Callable[[], None]) -> None:
    where = submit(client, delay="60")
    work()
    assert state_of(client, where)["job"]["status"] == "scheduled"
    (job,) = builds(werk)
    assert job.scheduled_at is not None
    assert timedelta(seconds=50) < job.scheduled_at - datetime.now(UTC) <= timedelta(seconds=60)


def test_a_report_expires(client: FlaskClient, werk: Werk, work: Callable[[], None]) -> None:
    where = submit(client)
    (job,) = [job for job in werk.list_jobs() if job.function.endswith(".expire")]
    assert job.status is JobStatus.SCHEDULED
    werk.update_job(job, delay=0)
    work()
    assert client.get(where).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [{"token": "x"}, {"title": " "}, {"currency": "EURO"}, {"currency": "1€"}, {"sales": ""}, {"delay": "-1"}],
)
def test_a_wrong_form_is_refused(client: FlaskClient, werk: Werk, wrong: dict[str, str]) -> None:
    assert client.post("/reports", data=form(**wrong)).status_code == 400
    assert werk.list_jobs() == []
