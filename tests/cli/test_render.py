"""What a terminal shows: columns that fit, colours of our own, nothing of a job's."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from pgwerk import Job, JobStatus, views
from pgwerk.cli import words
from pgwerk.cli.grid import Block, Facts, Grid, Part, plain_lines, status
from pgwerk.cli.jobs import listing
from pgwerk.cli.render import renderable

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ID = "0197c2f0-6f0c-7b7e-9d0a-3a1d1c3b2a10"


def shown(part: Part, width: int, *, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=colour, color_system="standard" if colour else None)
    console.print(renderable(part, width))
    return stream.getvalue()


def jobs() -> Grid:
    job = Job(
        id=ID, function="shop.tasks.send", status=JobStatus.FAILED, error="oh \x1b[2J no", attempts=2,
        enqueued_at=NOW - timedelta(minutes=3),
    )  # fmt: skip
    return listing([views.job(job)], NOW)


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_an_id_is_never_broken_and_columns_go_before_that(width: int) -> None:
    lines = shown(jobs(), width).splitlines()
    assert any(ID in line for line in lines)
    assert max(map(len, lines)) <= width
    assert ("queue" in lines[0]) == (width >= 100)


def test_text_of_a_job_is_neither_markup_nor_obeyed() -> None:
    grid = Grid("", [("function", False)])
    grid.add("[red]x[/red]\x1b[31m\u202e")
    facts = Facts("")
    facts.add("meta", "[bold]\x9b")
    page = shown(grid, 80) + shown(facts, 80) + shown(Block("Error", "a\n\tb\x1b]0;t\x07"), 80)
    assert "[red]x[/red]\\x1b[31m\\u202e" in page
    assert "[bold]\\x9b" in page
    assert [line.strip() for line in page.splitlines()][-3:] == ["Error", "a", "b\\x1b]0;t\\x07"]
    assert not set(page) & {"\x1b", "\x07", "\x9b", "\u202e"}


def test_a_status_has_its_word_and_its_colour() -> None:
    grid = Grid("", [("status", False)])
    grid.rows.append([status("failed")])
    assert "\x1b[31mfailed" in shown(grid, 80, colour=True)
    assert "failed" in list(plain_lines(grid))[-1]


def test_plain_text_is_aligned_and_whole() -> None:
    lines = list(plain_lines(jobs()))
    assert lines[1].startswith(f"{ID}  failed  shop.tasks.send")
    assert lines[1].endswith("oh \\x1b[2J no")
    assert lines[0].index("STATUS") == lines[1].index("failed")
    assert list(plain_lines(Grid("Nothing", [("a", False)], empty="No jobs."))) == ["No jobs."]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0 ms"), (0.0004, "<1 ms"), (0.25, "250 ms"), (1, "1.0 s"), (59.6, "60 s"), (150, "2 min"),
     (7300, "2 h"), (400_000, "5 d")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert words.duration(seconds) == text


def test_reasons() -> None:
    trace = (
        'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    boom()\n    ^^^\n'
        "KeyError: 'x'\nand more\n  indented"
    )
    assert words.reason(Job(error=trace).reason) == "KeyError: 'x'"
    late = Job(error="timed out after 3 s\nTraceback (most recent call last):\n  File x")
    assert words.reason(late.reason) == "timed out after 3 s"
    assert words.reason(Job().reason) == words.reason(Job(error=" \n").reason) == "-"
