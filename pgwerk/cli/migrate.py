"""`werk migrate`: create or update the tables."""

from typing import TYPE_CHECKING

import click

from pgwerk.cli import output
from pgwerk.cli.failures import FAILED
from pgwerk.cli.target import Target, target_options

if TYPE_CHECKING:
    from pgwerk import Werk


@click.command(
    epilog="""\b
Examples:
  werk migrate --dsn postgresql://admin@localhost/mydb --schema pgwerk
  werk migrate myapp.tasks:app --check       in a deployment: exit code 1 when something is missing
  werk migrate --sql | psql mydb             for a database that only its administrator changes"""
)
@target_options
@click.option("--check", is_flag=True, help="Change nothing; exit with 1 when something is missing.")
@click.option("--sql", is_flag=True, help="Print the SQL instead of running it; needs no connection.")
@click.option("--since", type=click.IntRange(0), default=0, metavar="VERSION", help="With --sql: what comes after it.")
@click.pass_context
def migrate(ctx: click.Context, target: Target, check: bool, sql: bool, since: int) -> None:
    """Create or update the tables of pgwerk.

    Apps and workers do this by themselves when they may; this is for roles that may not, and for deployments.
    Any number of processes may migrate at once.
    """
    if check and sql:
        raise click.UsageError("--check asks a database and --sql asks none: give one of them.")
    if since and not sql:
        raise click.UsageError("--since belongs to --sql.")
    if sql:
        click.echo(_offline(target).migration_sql(since), nl=False)
        return
    app = target.direct()
    where = f"schema {app.config.schema or 'public'!r} of {app.where}"
    if check:
        pending = app.pending_migrations()
        if not pending:
            output.show(f"Nothing is missing: {where} is at version {app.schema_version()}.")
            return
        output.show(f"Missing in {where}: {', '.join(pending)}. Run `werk migrate`.")
        ctx.exit(FAILED)
    applied = app.migrate()
    version = app.schema_version()
    app.close()
    done = f"Applied {', '.join(applied)}" if applied else "Nothing to do"
    output.show(f"{done}: {where} is at version {version}.")


def _offline(target: Target) -> "Werk":
    """An app to take names from; the DSN may be missing."""
    if target.app is None and target.dsn is None:
        target = Target(None, "postgresql://", target.schema, target.prefix)
    return target.werk()
