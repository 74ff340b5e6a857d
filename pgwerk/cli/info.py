"""`werk info`: the installation at a glance."""

from datetime import datetime

import click

from pgwerk import views
from pgwerk.cli import output, words
from pgwerk.cli.grid import Cell, Facts, Grid, Part, status
from pgwerk.cli.target import Target, target_options

STATUSES = ("queued", "scheduled", "waiting", "active", "complete", "failed", "aborted")


@click.command(
    epilog="""\b
Examples:
  werk info myapp.tasks:app
  werk info --dsn postgresql://localhost/mydb --json"""
)
@target_options
@click.option("--all", "everything", is_flag=True, help="List workers that have stopped, too.")
@output.json_option
def info(target: Target, everything: bool, as_json: bool) -> None:
    """Show queues, workers and versions.

    Counting reads every job: on tables of millions of rows this takes a moment.
    """
    app = target.direct()
    facts = views.installation(app)
    app.close()
    if as_json:
        output.show_json(facts)
    else:
        output.show(*parts(facts, everything=everything))


def parts(facts: views.InstallationView, *, everything: bool) -> list[Part]:
    """Lay the facts out."""
    schema = facts["schema"]
    head = Facts("")
    head.add("pgwerk", facts["pgwerk"])
    head.add("Postgres", f"{facts['postgres']['version']} at {facts['postgres']['at']}")
    missing = f"; missing: {', '.join(schema['pending'])}, run `werk migrate`" if schema["pending"] else ""
    head.add("tables", f"schema {schema['name']}, prefix {schema['prefix']}, version {schema['version']}{missing}")
    shown = [one for one in facts["workers"] if everything or one["status"] != "stopped"]
    found: list[Part] = [head, _queues(facts["queues"]), _workers(shown, datetime.fromisoformat(facts["at"]))]
    if hidden := len(facts["workers"]) - len(shown):
        found.append(f"{hidden} worker{'s have' if hidden > 1 else ' has'} stopped; --all lists them too.")
    return found


def _queues(queues: list[views.QueueView]) -> Grid:
    columns = [("queue", False), *((name, True) for name in STATUSES), ("oldest", True), ("", False)]
    grid = Grid("Queues", columns, empty="No jobs.", spare=("aborted", "waiting", "scheduled"))
    for one in queues:
        counts = dict(one["counts"])
        # Somebody is stopping these; they are running all the same.
        counts["active"] = counts.get("active", 0) + counts.get("aborting", 0)
        numbers = [
            Cell(f"{counts.get(name, 0):,}", "red" if name == "failed" and counts.get(name) else "")
            for name in STATUSES
        ]
        paused = f"paused: {one['pause_reason']}" if one["pause_reason"] else "paused"
        grid.add(one["queue"], *numbers, words.duration(one["oldest"]), Cell(paused if one["paused"] else "", "yellow"))
    if not any(one["paused"] for one in queues):
        return grid.without("")
    return grid


def _workers(workers: list[views.WorkerView], now: datetime) -> Grid:
    columns = [("worker", False), ("type", False), ("queues", False), ("status", False), ("active", True),
               ("heartbeat", True), ("up", True)]  # fmt: skip
    grid = Grid("Workers", columns, empty="No workers are running. Start one: werk worker myapp.tasks:app",
                spare=("up", "type"))  # fmt: skip
    for one in workers:
        about = one["metadata"]
        places = about.get("concurrency")
        grid.add(
            one["name"],
            str(about.get("worker_type", words.NOTHING)),
            one["queue"],
            status(one["status"]),
            f"{one['active']}/{places}" if places else str(one["active"]),
            words.ago(one["heartbeat_at"], now),
            words.duration(_age(one["started_at"], now)) if one["status"] == "active" else words.NOTHING,
        )
    return grid


def _age(moment: str, now: datetime) -> float:
    return (now - datetime.fromisoformat(moment)).total_seconds()
