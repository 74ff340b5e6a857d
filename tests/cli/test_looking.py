"""info, jobs, job and migrate on real rows."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import Result

from pgwerk import Job, PickleSerializer, Retry, ThreadWorker, Werk

Run = Callable[..., Result]

EVIL = "\x1b[2J\x1b]0;owned\x07\u202eevil\r\nsecond\x9b line"


@pytest.fixture
def rows(project: Path, dsn: str, schema: str) -> dict[str, Job]:
    """Some jobs, and what became of them."""
    import sys

    sys.path.insert(0, str(project.parent))
    with Werk(dsn, schema=schema) as app:
        made = {
            "done": app.enqueue(f"{project.name}.greet", "bob", _meta={"user": 42}),
            "failed": app.enqueue(f"{project.name}.fail", EVIL, _retry=Retry(2, intervals=0)),
            "later": app.enqueue(f"{project.name}.greet", "eve", _queue="mail", _delay=600),
        }
        after = app.enqueue(f"{project.name}.greet", "eve", _depends_on=made["later"])
        assert after is not None
        ThreadWorker(app, burst=True).run()
        app.pause_queue("mail", "provider \x1bdown")
        return {**made, "after": after}


def shell(schema: str, dsn: str) -> list[str]:
    return ["--dsn", dsn, "--schema", schema]


def test_info(werk: Run, rows: dict[str, Job], project: Path, dsn: str, schema: str) -> None:
    done = werk("info", f"{project.name}:app")
    assert done.exit_code == 0, done.output
    assert f"schema {schema}, prefix _pgwerk, version" in done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    assert "default 0 0 1 0 1 1 0 -" in lines
    assert "mail 0 1 0 0 0 0 0 - paused: provider \\x1bdown" in lines
    assert "\x1b" not in done.output
    assert "1 worker has stopped; --all lists them too." in lines
    assert "stopped" in werk("info", *shell(schema, dsn), "--all").output

    facts: dict[str, Any] = json.loads(werk("info", *shell(schema, dsn), "--json").output)
    assert facts["schema"]["pending"] == []
    assert {one["queue"]: one["counts"] for one in facts["queues"]} == {
        "default": {"complete": 1, "failed": 1, "waiting": 1},
        "mail": {"scheduled": 1},
    }
    assert facts["workers"][0]["metadata"]["worker_type"] == "thread"
    assert len(rows) == 4


def test_jobs(werk: Run, rows: dict[str, Job], project: Path, dsn: str, schema: str) -> None:
    done = werk("jobs", f"{project.name}:app")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0].split() == [
        "ID",
        "STATUS",
        "FUNCTION",
        "QUEUE",
        "TRIES",
        "ENQUEUED",
        "TOOK",
        "ERROR",
    ]
    assert [line.split()[0] for line in done.output.splitlines()[1:]] == [
        rows[name].id for name in ("after", "later", "failed", "done")
    ]
    assert "\x1b" not in done.output

    def ids(*options: str) -> set[str]:
        found = json.loads(werk("jobs", *shell(schema, dsn), *options, "--json").output)
        return {name for name, job in rows.items() if job.id in {one["id"] for one in found}}

    assert ids() == set(rows)
    assert ids("--queue", "mail") == {"later"}
    assert ids("--status", "failed,complete") == {"failed", "done"}
    assert ids("--retried") == {"failed"}
    assert ids("--search", "42") >= {"done"}
    assert ids("--function", f"{project.name}.fail") == {"failed"}
    assert ids("--limit", "1") == {"after"}
    assert "There are more than 1" in werk("jobs", *shell(schema, dsn), "-n", "1").stderr
    assert werk("jobs", *shell(schema, dsn), "--queue", "nothing").output == "No jobs.\n"


def test_job_in_both_orders(werk: Run, rows: dict[str, Job], project: Path, dsn: str, schema: str) -> None:
    app, id_ = f"{project.name}:app", rows["done"].id
    calls = ["job", app, id_], ["job", id_, app], ["job", id_, *shell(schema, dsn)]
    page, *others = (re.sub(r"\(?[\d.]+ m?s ago\)?", "", werk(*call).output) for call in calls)
    # The columns are as wide as the ages that stood in them.
    assert [other.split() for other in others] == [page.split()] * 2
    lines = [" ".join(line.split()) for line in page.splitlines()]
    assert f"call {project.name}.greet('bob')" in lines
    assert 'meta {"user": 42}' in lines
    assert 'result "hi bob"' in lines
    after = werk("job", app, rows["after"].id).output
    assert f"depends on  {rows['later'].id}" in after
    found = json.loads(werk("job", app, rows["failed"].id, "--json").output)
    assert found["attempts"] == 2
    assert [one["attempt"] for one in found["executions"]] == [1, 2]
    assert EVIL.splitlines()[0] in found["error"]
    assert found["dependencies"] == []


def test_job_shows_what_its_workers_did_to_it(
    werk: Run, rows: dict[str, Job], dsn: str, schema: str, pg: "psycopg.Connection[Any]"
) -> None:
    id_ = rows["done"].id
    assert "lost" not in werk("job", id_, *shell(schema, dsn)).output
    pg.execute(f'update "{schema}"._pgwerk_jobs set lost = 2, max_lost = 5, interrupted = 1'.encode())
    lines = [" ".join(line.split()) for line in werk("job", id_, *shell(schema, dsn)).output.splitlines()]
    assert "lost 2 times, with its worker, and may be 5 times" in lines
    assert "interrupted once, by a shutdown" in lines
    found = json.loads(werk("job", id_, *shell(schema, dsn), "--json").output)
    assert (found["lost"], found["max_lost"], found["interrupted"]) == (2, 5, 1)
    assert not {"claim_id", "watched"} & found.keys()


def test_control_characters_stay_in_the_database(werk: Run, rows: dict[str, Job], dsn: str, schema: str) -> None:
    page = werk("job", rows["failed"].id, *shell(schema, dsn)).output
    assert "ValueError: \\x1b[2J\\x1b]0;owned\\x07\\u202eevil" in page
    assert "Traceback (most recent call last):" in page
    assert not set(page) & {"\x1b", "\x07", "\u202e", "\r", "\x9b"}
    # One attempt is one line, whatever the message has.
    assert len([line for line in page.splitlines() if line.lstrip().startswith(("1  failed", "2  failed"))]) == 2


def test_nothing_is_unpickled(dsn: str, schema: str, werk: Run) -> None:
    with Werk(dsn, schema=schema, serializer=PickleSerializer()) as app:
        job = app.enqueue("json.dumps", {1, 2})
        assert job is not None
    page = werk("job", job.id, *shell(schema, dsn))
    assert page.exit_code == 0, page.output
    assert "cannot be decoded by JSONSerializer" in page.output


def test_migrate(werk: Run, dsn: str, schema: str, pg: "psycopg.Connection[Any]") -> None:
    where = shell(schema, dsn)
    missing = werk("migrate", *where, "--check")
    assert missing.exit_code == 1
    assert "Missing in schema" in missing.output
    assert pg.execute("select to_regnamespace(%s)", [schema]).fetchone() == (None,)
    script = werk("migrate", "--sql", "--schema", schema)
    assert script.exit_code == 0
    pg.execute(script.output.encode())
    assert werk("migrate", *where, "--check").exit_code == 0
    assert "Nothing to do" in werk("migrate", *where).output
    assert "create table" not in werk("migrate", "--sql", "--since", "1000").output
    pg.execute(f"drop schema {schema} cascade".encode())
    assert "Applied 0001_jobs" in werk("migrate", *where).output
    assert werk("info", *where).exit_code == 0


def test_a_worker_of_a_project(
    process: Callable[..., "subprocess.CompletedProcess[str]"], project: Path, dsn: str, schema: str
) -> None:
    with Werk(dsn, schema=schema) as app:
        jobs = [app.enqueue(f"{project.name}.greet", "bob"), app.enqueue(f"{project.name}.fail", EVIL)]
        done = process("worker", f"{project.name}:app", "--burst", "--processes", "1", PGWERK_LOG_FORMAT="text")
        assert done.returncode == 0, done.stderr
        assert [app.get_job(job).status for job in jobs] == ["complete", "failed"]
    assert "INFO     pgwerk.worker: supervisor" in done.stderr
    assert "stopped after 2 jobs" in done.stderr
    assert "\x1b" not in done.stderr
    done = process("worker", f"{project.name}:app", "--burst", "--worker-type", "thread", "--log-format", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["logger"] for line in lines} == {"pgwerk.worker"}
