"""Bringing the schema up to date, and checking that it is."""

from pgwerk._core.operation import Steps, operation
from pgwerk._core.schema import OLDEST_USABLE, latest, migrations
from pgwerk._core.statements import schema
from pgwerk.errors import SchemaVersionMismatch

__all__ = ["check", "latest", "migrate", "version"]


@operation()
def migrate() -> Steps[list[str]]:
    """Apply what is missing, in one transaction under a lock; the names of what was applied come back."""
    yield from schema.without_limits()
    yield from schema.lock_migrations()
    if not (yield from schema.schema_exists()):
        yield from schema.create_schema()
    done: list[int] = []
    if (yield from schema.versions_exist()):
        done = yield from schema.applied()
    _refuse_newer(done)
    applied = []
    for migration in migrations():
        if migration.version in done:
            continue
        yield from schema.script(migration.sql)
        yield from schema.record(migration.version, migration.name)
        applied.append(f"{migration.version:04}_{migration.name}")
    return applied


@operation(atomic=False, repeatable=True)
def version() -> Steps[int]:
    """Read the version of the schema; 0 when there is none."""
    if not (yield from schema.versions_exist()):
        return 0
    done = yield from schema.applied()
    return max(done, default=0)


@operation(atomic=False, repeatable=True)
def check() -> Steps[int]:
    """Read the version of the schema; raises SchemaVersionMismatch when this code cannot run on it."""
    found = yield from version()
    _refuse_newer([found])
    if found < OLDEST_USABLE:
        what = "are not there" if found == 0 else f"are of version {found}"
        raise SchemaVersionMismatch(
            f"The tables of this schema and prefix {what}; this pgwerk needs version {latest()}. "
            "Run `werk migrate` (with a role that may create tables), or construct Werk with auto_migrate=True."
        )
    return found


def _refuse_newer(done: list[int]) -> None:
    newest = max(done, default=0)
    if newest > latest():
        raise SchemaVersionMismatch(
            f"The tables are of version {newest}, made by a newer pgwerk; this one knows up to version {latest()}. "
            "Upgrade this installation of pgwerk."
        )
