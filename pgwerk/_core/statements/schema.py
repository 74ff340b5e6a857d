"""Creating and checking the tables."""

from pgwerk._core.operation import Rows, Statement, column, nothing, scalar, statement


@statement
def server_version() -> Statement[str]:
    """Read the version of the server, such as "15.4"."""

    def read(rows: Rows) -> str:
        number = int(rows[0][0])
        return f"{number // 10_000}.{number % 10_000}"

    return Statement("select current_setting('server_version_num')", {}, read, repeatable=True)


@statement
def without_limits() -> Statement[None]:
    """Let this transaction take its time: a role's limits are for other work, and another process may migrate first."""
    return Statement(
        """
        select count(set_config(name, '0', true))
        from pg_settings
        where name in ('statement_timeout', 'lock_timeout', 'transaction_timeout',
                       'idle_in_transaction_session_timeout')
        """,
        {},
        nothing,
    )


@statement
def lock_migrations() -> Statement[None]:
    """Wait until no other process migrates in this schema, whatever its prefix; the lock ends with the transaction."""
    return Statement(
        "select pg_advisory_xact_lock(hashtextextended(coalesce({schema_name}, ''), 7235))",
        {},
        nothing,
    )


@statement
def schema_exists() -> Statement[bool]:
    """Say whether the schema exists (an unqualified one always does)."""
    return Statement(
        "select {schema_name} is null or exists (select from pg_namespace where nspname = {schema_name})",
        {},
        scalar,
        repeatable=True,
    )


@statement
def create_schema() -> Statement[None]:
    """Create the schema."""
    return Statement("create schema {schema}", {}, nothing)


@statement
def versions_exist() -> Statement[bool]:
    """Say whether the table of versions exists."""
    return Statement("select to_regclass({versions_name}) is not null", {}, scalar, repeatable=True)


@statement
def applied() -> Statement[list[int]]:
    """List the migrations that were applied."""
    return Statement("select version from {versions} order by version", {}, column, repeatable=True)


@statement
def script(sql: str) -> Statement[None]:
    """Run several commands, without parameters."""
    return Statement(sql, {}, nothing)


@statement
def record(version: int, name: str) -> Statement[None]:
    """Write that a migration was applied."""
    return Statement(
        "insert into {versions} (version, name) values (%(version)s, %(name)s)",
        {"version": version, "name": name},
        nothing,
    )


@statement
def drop_all() -> Statement[None]:
    """Drop every table and view of this installation; the schema itself stays."""
    return Statement(
        "drop view if exists {worker_jobs};"
        " drop table if exists {jobs}, {claims}, {executions}, {job_deps}, {permits}, {worker}, {idle},"
        " {queues}, {versions}",
        {},
        nothing,
    )


@statement
def truncate_all() -> Statement[None]:
    """Empty every table except the versions."""
    return Statement(
        "truncate {jobs}, {claims}, {executions}, {job_deps}, {permits}, {worker}, {idle}, {queues}",
        {},
        nothing,
    )
