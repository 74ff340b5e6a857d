"""The groups of statuses, and that SQL keeps to them."""

import re
from pathlib import Path

from pgwerk import JobStatus, views
from pgwerk._core import statuses

ROOT = Path(__file__).parents[2] / "pgwerk" / "_core"
TEXTS = {path.name: path.read_text() for path in (*ROOT.rglob("*.py"), *ROOT.rglob("*.sql"))}
GROUPS = (statuses.UNSTARTED, statuses.RUNNING, statuses.TERMINAL, statuses.UNSUCCESSFUL, statuses.RELEASED)
CHECKED = {"queued", "active", "aborting"}
"""What a lane of the jobs table is made for, besides."""


def test_every_status_is_in_one_of_three_groups() -> None:
    assert sorted(statuses.EVERY) == sorted(JobStatus)
    assert set(statuses.UNSUCCESSFUL) < set(statuses.TERMINAL)
    assert set(statuses.RELEASED) < set(statuses.UNSTARTED)
    assert {status for status in JobStatus if status.terminal} == set(statuses.TERMINAL)
    assert set(views.JOB_STATUSES) == set(statuses.EVERY)


def test_sql_speaks_of_these_groups_only() -> None:
    found = [
        (name, frozenset(re.findall(r"'(\w+)'", group)))
        for name, text in TEXTS.items()
        for group in re.findall(r"status (?:not )?in \(([^)]*)\)", text)
        if "'" in group
    ]
    assert len(found) > 30
    wanted = {frozenset(group) for group in GROUPS} | {frozenset(CHECKED)}
    assert [(name, set(group)) for name, group in found if group not in wanted] == []


def test_sql_compares_with_statuses_that_exist() -> None:
    known = {*statuses.EVERY, "running", "stopped", "lost"}
    found = {word for text in TEXTS.values() for word in re.findall(r"status (?:=|<>) '(\w+)'", text)}
    assert found <= known, found - known
    assert {"queued", "active", "failed"} <= found


def test_the_table_names_every_status() -> None:
    rows = re.findall(r"^\| (\w+) \| (\w+)", statuses.__doc__ or "", re.MULTILINE)
    groups = {"unstarted": statuses.UNSTARTED, "running": statuses.RUNNING, "terminal": statuses.TERMINAL}
    assert {(status, name) for name, group in groups.items() for status in group} == set(rows) - {("status", "group")}
