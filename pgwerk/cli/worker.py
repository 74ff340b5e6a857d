"""`werk worker`: run jobs until told to stop."""

import logging
import os
import sys
from typing import Any

import click

from pgwerk import logs
from pgwerk.cli.target import Target, in_memory, target_options
from pgwerk.errors import ConfigError

STRATEGIES = {"priority": "Priority", "round-robin": "RoundRobin", "random": "Random"}

TYPES = {
    "prefork": ("Worker", "threads in child processes, which are replaced when they die"),
    "thread": ("ThreadWorker", "threads in this process"),
    "process": ("ProcessWorker", "child processes that live on, one job each at a time"),
    "fork": ("ForkWorker", "a fresh child process for every job"),
    "async": ("AsyncWorker", "coroutines on one event loop, and plain functions in threads"),
}
"""By name: the class, and what runs the jobs."""

ONLY_FOR = {
    "processes": ("prefork",),
    "max_jobs": ("prefork", "process"),
    "max_rss": ("prefork", "process"),
    "sigterm_grace": ("fork",),
}
"""Options that not every type has."""

IN_THIS_PROCESS = ("thread", "async")
"""The types that start no other process, so that they can run jobs in memory."""


@click.command(
    epilog="""\b
Worker types:
"""
    + "\n".join(f"  {name:<9}{what}" for name, (_, what) in TYPES.items())
    + """

\b
Examples:
  werk worker myapp.tasks:app
  werk worker myapp.tasks:app --queues high,default --concurrency 20 --processes 4
  werk worker myapp.tasks:app --burst      run what is queued, then end
  werk worker myapp.tasks:app --reload     start again when the code changes"""
)
@target_options
@click.option("--queues", "-q", multiple=True, metavar="NAME[,NAME…]", help="Queues to work on [default: default].")
@click.option("--concurrency", "-c", type=click.IntRange(1, 10_000), default=10, show_default=True,
              help="Jobs at once, in all processes together.")  # fmt: skip
@click.option("--processes", type=click.IntRange(1, 1000), help="Child processes [default: one for each CPU].")
@click.option("--worker-type", type=click.Choice(list(TYPES)), default="prefork", show_default=True,
              help="What runs the jobs; see below.")  # fmt: skip
@click.option("--strategy", type=click.Choice(list(STRATEGIES)), default="priority", show_default=True,
              help="In which order to look at several queues.")  # fmt: skip
@click.option("--burst", is_flag=True, help="End when nothing is queued or running.")
@click.option("--max-jobs", type=click.IntRange(1), help="Replace a child process after this many jobs.")
@click.option("--max-rss", metavar="SIZE", help="Replace a child process that uses more memory, like 600M.")
@click.option("--sigterm-grace", type=click.FloatRange(0), metavar="SECONDS",
              help="Between TERM and KILL for a job's process [default: 5].")  # fmt: skip
@click.option("--shutdown-timeout", type=click.FloatRange(0), metavar="SECONDS",
              help="After TERM or Ctrl-C, how long running jobs may go on [default: 30].")  # fmt: skip
@click.option("--health-file", metavar="PATH", type=click.Path(dir_okay=False),
              help="Renew this file as long as the worker is healthy; for a container's probe.")  # fmt: skip
@click.option("--reload", is_flag=True, help="Start again when a Python file changes; for development.")
@click.option("--log-level", metavar="LEVEL", help="DEBUG, INFO, WARNING or ERROR [env: PGWERK_LOG_LEVEL].")
@click.option("--log-format", type=click.Choice(logs.FORMATS), help="How logs look [env: PGWERK_LOG_FORMAT].")
def worker(
    target: Target,
    queues: tuple[str, ...],
    worker_type: str,
    strategy: str,
    log_level: str | None,
    log_format: str | None,
    reload: bool,
    **settings: Any,
) -> None:
    """Run the jobs of APP until TERM or Ctrl-C.

    A first signal lets running jobs finish, a second gives them back at once. HUP replaces the child processes one
    by one, with the code as it was imported at the start; to run new code, start the worker again. USR1 prints where
    every thread is.
    """
    _check_options(worker_type, settings)
    if reload:
        from pgwerk.cli.reload import run_again_and_again  # noqa: PLC0415  # for development only

        sys.exit(run_again_and_again(target, log_level, log_format))
    app = target.app_as_given()
    if in_memory(app) and worker_type not in IN_THIS_PROCESS:
        raise ConfigError(
            f"The jobs of {target.app} are in {app.dsn}, and a child process does not see the memory of its parent. "
            f"Use --worker-type {' or '.join(IN_THIS_PROCESS)}, which run jobs that this process enqueues, or keep "
            'jobs in Postgres: Werk("embedded://") needs no set-up.'
        )
    _configure_logs(log_level, log_format)
    import pgwerk  # noqa: PLC0415  # `werk worker --help` is quick

    names = [name.strip() for given in queues or ("default",) for name in given.split(",")]
    settings["dequeue_strategy"] = pgwerk.DequeueStrategy[STRATEGIES[strategy]]
    kind = getattr(pgwerk, TYPES[worker_type][0])
    try:
        made = kind(app, names, **settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    made.run()


def _check_options(worker_type: str, settings: dict[str, Any]) -> None:
    """Refuse what this type of worker does not have, and leave out what was not given."""
    for name, types in ONLY_FOR.items():
        if worker_type in types:
            if settings[name] is None:
                del settings[name]
        elif settings.pop(name) is not None:
            option = name.replace("_", "-")
            raise click.UsageError(f"--{option} needs --worker-type {' or '.join(types)}, not {worker_type}.")


def _configure_logs(level: str | None, kind: str | None) -> None:
    """Show what the worker does, unless the app has decided that already."""
    asked = level or kind or os.environ.get("PGWERK_LOG_LEVEL") or os.environ.get("PGWERK_LOG_FORMAT")
    ours = logging.getLogger(logs.LOGGER)
    if asked or not (logs.is_configured() or ours.handlers or logging.getLogger().handlers):
        logs.configure_logging(level=level, format=kind)
    elif ours.level == logging.NOTSET:
        # The app's own handlers show it; without a level, the root's WARNING would hide a worker's life.
        ours.setLevel(logging.INFO)
    logs.show_others_alike()
