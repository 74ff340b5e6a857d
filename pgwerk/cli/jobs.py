"""`werk jobs` and `werk job`: what is in the queues, and all about one job."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from pgwerk import views
from pgwerk.cli import output, words
from pgwerk.cli.grid import Block, Facts, Grid, Part, status
from pgwerk.cli.target import Target, dsn_options, target_options

TIMES = ("enqueued_at", "scheduled_at", "started_at", "completed_at", "expires_at")
OPTIONAL = ("key", "group_key", "timeout_secs", "heartbeat_secs", "ttl", "result_ttl", "failure_ttl", "schedule_name",
            "on_success", "on_failure", "on_stopped", "callback_of", "worker_id")  # fmt: skip
"""Fields that are only shown when they are set."""


def _split(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> list[str]:
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


def _statuses(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> list[str]:
    found = _split(ctx, param, given)
    for name in found:
        if name not in views.JOB_STATUSES:
            raise click.BadParameter(f"{name!r} is not a job status; choose from {', '.join(views.JOB_STATUSES)}.")
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
              help="Only in these statuses: " + ", ".join(views.JOB_STATUSES) + ".")  # fmt: skip
@click.option("--search", metavar="TEXT", help="Only with this text in function, id, key, queue or meta.")
@click.option("--function", "-f", multiple=True, metavar="PATH", help="Only of this function, by its dotted path.")
@click.option("--retried", is_flag=True, help="Only with more than one attempt.")
@click.option(
    "--limit", "-n", type=click.IntRange(1, 100_000), default=50, show_default=True, help="List at most this many."
)
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
    shown = [views.job(one) for one in found[:limit]]
    if as_json:
        output.show_json(shown)
        return
    output.show(listing(shown, datetime.now(UTC)))
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
        what = f"{strange[0]!r} is neither a job id nor module:attribute. " if strange else ""
        raise click.UsageError(f"{what}Give the id of one job (`werk jobs` lists them) and, if need be, an APP.")
    app = Target(apps[0] if apps else None, target.dsn, target.schema, target.prefix).direct()
    found = app.get_job(ids[0])
    page = views.job_page(found, app.get_executions(found), app.get_job_dependencies(found))
    app.close()
    if as_json:
        output.show_json(page)
    else:
        output.show(*parts(page, datetime.now(UTC)))


def listing(found: list[views.JobView], now: datetime) -> Grid:
    """A table of jobs."""
    columns = [("id", False), ("status", False), ("function", False), ("queue", False), ("tries", True),
               ("enqueued", True), ("took", True), ("error", False)]  # fmt: skip
    grid = Grid("", columns, empty="No jobs.", spare=("took", "queue", "enqueued", "error"))
    for one in found:
        grid.add(
            one["id"],
            status(one["status"]),
            one["function"],
            one["queue"],
            f"{one['attempts']}/{one['max_attempts']}",
            words.ago(one["enqueued_at"], now),
            words.duration(one["duration"]),
            words.reason(one["reason"]) if one["error"] else "",
        )
    if not any(one["error"] for one in found):
        return grid.without("error")
    return grid


def parts(one: views.JobPage, now: datetime) -> list[Part]:
    """Lay out all about a job."""
    head = Facts("")
    head.add("job", one["id"])
    shown = status(one["status"])
    head.add("status", shown.text, shown.style)
    head.add("call", f"{one['function']}({_arguments(one)})")
    head.add("queue", one["queue"] + (f", priority {one['priority']}" if one["priority"] else ""))
    head.add("attempts", f"{one['attempts']} of {one['max_attempts']}")
    if one["lost"]:
        limit = "" if one["max_lost"] is None else f", and may be {one['max_lost']} times"
        head.add(
            "lost",
            f"{one['lost']} times, with its worker{limit}" if one["lost"] > 1 else f"once, with its worker{limit}",
        )
    if one["interrupted"]:
        head.add(
            "interrupted",
            f"{one['interrupted']} times, by shutdowns" if one["interrupted"] > 1 else "once, by a shutdown",
        )
    for name, text in _when_set(one, now):
        head.add(name, text)
    if one["status"] == "complete":
        head.add("result", words.value(one["result"]))
    if one["dependencies"]:
        head.add("depends on", ", ".join(one["dependencies"]))
    page: list[Part] = [head]
    if one["executions"]:
        page.append(_attempts(one["executions"], now))
    if one["error"]:
        page.append(Block("Error", one["error"]))
    return page


def _when_set(one: views.JobPage, now: datetime) -> list[tuple[str, str]]:
    """What many jobs do not have, as (name, text)."""
    facts: Mapping[str, Any] = one
    times = [(name.removesuffix("_at"), words.moment(facts[name], now)) for name in TIMES if facts[name]]
    took = [("took", words.duration(one["duration"]))] if one["duration"] is not None else []
    texts = [(name, str(facts[name])) for name in OPTIONAL if facts[name] is not None]
    values = [(name, words.value(facts[name])) for name in ("meta", "progress") if facts[name]]
    return [*times, *took, *texts, *values]


def _attempts(executions: list[views.ExecutionView], now: datetime) -> Grid:
    columns = [("attempt", True), ("status", False), ("started", True), ("took", True), ("error", False)]
    grid = Grid("Attempts", columns)
    for one in executions:
        grid.add(
            one["attempt"],
            status(one["status"]),
            words.ago(one["started_at"], now),
            words.duration(one["duration"]),
            words.reason(one["reason"]) if one["error"] else "",
        )
    return grid if any(one["error"] for one in executions) else grid.without("error")


def _arguments(one: views.JobPage) -> str:
    payload = one["payload"]
    if payload is not None and (not isinstance(payload, dict) or views.UNDECODABLE in payload):
        return words.value(payload)
    return words.call(one["args"], one["kwargs"])


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True
