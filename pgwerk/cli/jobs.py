"""`werk jobs` and `werk job`: what is in the queues, and all about one job."""

import uuid
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pgwerk.cli import output, words
from pgwerk.cli.grid import Block, Facts, Grid, Part, status
from pgwerk.cli.target import Target, dsn_options, target_options

if TYPE_CHECKING:
    from pgwerk import Job, JobExecution

STATUSES = ("scheduled", "queued", "waiting", "active", "aborting", "complete", "failed", "aborted")
TIMES = ("enqueued_at", "scheduled_at", "started_at", "completed_at", "expires_at")
OPTIONAL = ("key", "group_key", "timeout_secs", "heartbeat_secs", "ttl", "result_ttl", "failure_ttl", "schedule_name",
            "on_success", "on_failure", "on_stopped", "callback_of", "worker_id")  # fmt: skip
"""Fields that are only shown when they are set."""


def _split(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> list[str]:
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


def _statuses(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> list[str]:
    found = _split(ctx, param, given)
    for name in found:
        if name not in STATUSES:
            raise click.BadParameter(f"{name!r} is no status; there are {', '.join(STATUSES)}.")
    return found


@click.command(
    epilog="""\b
Examples:
  werk jobs myapp.tasks:app --status failed
  werk jobs --dsn postgresql://localhost/mydb --queue mail,default --retried --limit 20
  werk jobs myapp.tasks:app --json | jq -r '.[].id'"""
)
@target_options
@click.option("--queue", "-q", multiple=True, callback=_split, metavar="NAME[,NAME…]", help="Only of these queues.")
@click.option("--status", "-s", "statuses", multiple=True, callback=_statuses, metavar="STATUS[,STATUS…]",
              help="Only in these statuses: " + ", ".join(STATUSES) + ".")  # fmt: skip
@click.option("--search", metavar="TEXT", help="Only with this text in function, id, key, queue or meta.")
@click.option("--function", "-f", multiple=True, metavar="PATH", help="Only of this function, by its dotted path.")
@click.option("--retried", is_flag=True, help="Only with more than one attempt.")
@click.option("--limit", "-n", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@output.json_option
def jobs(
    target: Target,
    queue: list[str],
    statuses: list[str],
    search: str | None,
    function: tuple[str, ...],
    retried: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, the newest first."""
    app = target.direct()
    # One more than is shown tells whether there are more.
    found = app.list_jobs(
        queue=queue or None, status=statuses or None, search=search, function=list(function) or None,
        retried=retried or None, limit=min(limit + 1, 100_000),
    )  # fmt: skip
    app.close()
    if as_json:
        output.show_json([as_dict(one) for one in found[:limit]])
        return
    output.show(listing(found[:limit], datetime.now(UTC)))
    if len(found) > limit:
        output.note(f"There are more than {limit}: narrow them down, or give a higher --limit.")


@click.command(
    epilog="""\b
Examples:
  werk job myapp.tasks:app 0197c2f0-6f0c-7b7e-9d0a-3a1d1c3b2a10
  werk job 0197c2f0-6f0c-7b7e-9d0a-3a1d1c3b2a10 --dsn postgresql://localhost/mydb --json"""
)
@click.argument("words_", metavar="[APP] ID", nargs=-1)
@dsn_options
@output.json_option
def job(target: Target, words_: tuple[str, ...], as_json: bool) -> None:
    """Show all about one job: arguments, result, error, attempts, dependencies."""
    ids = [word for word in words_ if _is_id(word)]
    apps = [word for word in words_ if ":" in word and not _is_id(word)]
    if len(ids) != 1 or len(apps) > 1 or len(words_) > len(ids) + len(apps):
        strange = [word for word in words_ if word not in ids and word not in apps]
        what = f"{strange[0]!r} is neither the id of a job nor module:attribute. " if strange else ""
        raise click.UsageError(f"{what}Give the id of one job (`werk jobs` lists them) and, if need be, an APP.")
    app = Target(apps[0] if apps else None, target.dsn, target.schema, target.prefix).direct()
    found = app.get_job(ids[0])
    executions = app.get_executions(found)
    dependencies = app.get_job_dependencies(found)
    app.close()
    if as_json:
        tries = [{field.name: getattr(one, field.name) for field in fields(one)} for one in executions]
        output.show_json({**as_dict(found), "executions": tries, "dependencies": dependencies})
        return
    output.show(*page_of(found, executions, dependencies, datetime.now(UTC)))


def as_dict(one: "Job") -> dict[str, Any]:
    """A job by its columns; the numbers of its claims are nobody's business."""
    return {field.name: getattr(one, field.name) for field in fields(one) if field.name not in ("claim_id", "watched")}


def listing(found: list["Job"], now: datetime) -> Grid:
    """A table of jobs."""
    columns = [("id", False), ("status", False), ("function", False), ("queue", False), ("tries", True),
               ("enqueued", True), ("took", True), ("error", False)]  # fmt: skip
    grid = Grid("", columns, empty="No jobs.", spare=("took", "queue", "enqueued", "error"))
    for one in found:
        grid.add(
            one.id,
            status(one.status.value),
            one.function,
            one.queue,
            f"{one.attempts}/{one.max_attempts}",
            words.ago(one.enqueued_at, now),
            words.duration(_took(one)),
            words.reason(one) if one.error else "",
        )
    if not any(one.error for one in found):
        return grid.without("error")
    return grid


def page_of(one: "Job", executions: list["JobExecution"], dependencies: list[str], now: datetime) -> list[Part]:
    """Lay out all about a job."""
    head = Facts("")
    head.add("job", one.id)
    shown = status(one.status.value)
    head.add("status", shown.text, shown.style)
    head.add("call", f"{one.function}({_arguments(one)})")
    head.add("queue", one.queue + (f", priority {one.priority}" if one.priority else ""))
    head.add("attempts", f"{one.attempts} of {one.max_attempts}")
    if one.lost:
        limit = "" if one.max_lost is None else f", and may be {one.max_lost} times"
        head.add(
            "lost", f"{one.lost} times, with its worker{limit}" if one.lost > 1 else f"once, with its worker{limit}"
        )
    if one.interrupted:
        head.add(
            "interrupted", f"{one.interrupted} times, by shutdowns" if one.interrupted > 1 else "once, by a shutdown"
        )
    for name, text in _when_set(one, now):
        head.add(name, text)
    if one.status.value == "complete":
        head.add("result", words.value(one.result))
    if dependencies:
        head.add("depends on", ", ".join(dependencies))
    page: list[Part] = [head]
    if executions:
        page.append(_attempts(executions, now))
    if one.error:
        page.append(Block("Error", one.error))
    return page


def _when_set(one: "Job", now: datetime) -> list[tuple[str, str]]:
    """What many jobs do not have, as (name, text)."""
    times = [(name.removesuffix("_at"), words.moment(getattr(one, name), now)) for name in TIMES if getattr(one, name)]
    took = _took(one)
    texts = [(name, str(getattr(one, name))) for name in OPTIONAL if getattr(one, name) is not None]
    values = [(name, words.value(getattr(one, name))) for name in ("meta", "progress") if getattr(one, name)]
    return [*times, *([("took", words.duration(took))] if took is not None else []), *texts, *values]


def _attempts(executions: list["JobExecution"], now: datetime) -> Grid:
    columns = [("attempt", True), ("status", False), ("started", True), ("took", True), ("error", False)]
    grid = Grid("Attempts", columns)
    for one in executions:
        grid.add(
            one.attempt,
            status(one.status.value),
            words.ago(one.started_at, now),
            words.duration(one.duration),
            words.reason(one) if one.error else "",
        )
    return grid if any(one.error for one in executions) else grid.without("error")


def _arguments(one: "Job") -> str:
    if one.payload is not None and not isinstance(one.payload, dict):
        return words.value(one.payload)
    return words.call(one.args, one.kwargs)


def _took(one: "Job") -> float | None:
    if one.started_at is None or one.completed_at is None:
        return None
    return (one.completed_at - one.started_at).total_seconds()


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
