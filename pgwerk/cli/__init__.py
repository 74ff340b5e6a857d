"""The command `werk`. A command's module is imported when the command is used or listed; none imports the driver."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from pgwerk.cli.failures import SeenEnough, guarded

COMMANDS = {
    "demo": "pgwerk.cli.demo",
    "info": "pgwerk.cli.info",
    "job": "pgwerk.cli.jobs",
    "jobs": "pgwerk.cli.jobs",
    "migrate": "pgwerk.cli.migrate",
    "worker": "pgwerk.cli.worker",
}
"""Where each command is: the attribute of the same name."""


class LazyGroup(click.Group):
    """A group that imports its commands late and shows errors as one paragraph."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Name all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # as above
        """Import the command of this name."""
        home = COMMANDS.get(cmd_name)
        return None if home is None else getattr(import_module(home), cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that a command line names."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib  # noqa: PLC0415  # only for mistakes

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(sorted(COMMANDS))}."
            raise click.UsageError(f"There is no command {args[0]!r}. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read a command line, which shows --help; click would make a failure of a reader that has seen enough."""
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError as error:
            raise SeenEnough from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see above."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise SeenEnough from error

    def main(  # type: ignore[override]  # click overloads it for a parameter that we pass on
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run a command line; errors of pgwerk are told in a paragraph."""
        return guarded(super().main, args, prog_name=prog_name or "werk", **extra)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["--help"], "max_content_width": 100},
    epilog="""\b
Start here:
  werk demo                                        see it work; needs no server
  werk worker myapp.tasks:app --queues default     run jobs
  werk info --dsn postgresql://localhost/mydb      look at queues and workers

APP is module:attribute, importable from the current directory. Without it, --dsn, PGWERK_DSN, DATABASE_URL or
Postgres's own PGHOST, PGUSER, PGDATABASE … say where the jobs are.""",
)
@click.version_option(None, "--version", package_name="pgwerk", message="pgwerk %(version)s")
@click.option("--debug", is_flag=True, envvar="PGWERK_DEBUG", help="Show tracebacks of errors.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Run and look at jobs of pgwerk, a job queue inside Postgres."""
    ctx.obj = {"debug": debug}


def main() -> None:
    """Run `werk`."""
    cli()
