"""Databases and roles whose settings are not the usual ones, each of the test's own."""

import secrets
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

Hostile = Callable[..., str]


def _dsn(dsn: str, database: str, user: str) -> str:
    parts = urlsplit(dsn)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:secret@{place}", path=f"/{database}"))


@pytest.fixture
def hostile(dsn: str, pg: "psycopg.Connection[object]") -> Iterator[Hostile]:
    """Make a database with an owner whose role has these settings; the DSN of that role comes back."""
    made: list[str] = []

    def make(settings: Mapping[str, str] | None = None, *, encoding: str = "UTF8", of_database: bool = False) -> str:
        name = f"hostile_{secrets.token_hex(6)}"
        made.append(name)
        place = sql.Identifier(name)
        pg.execute(sql.SQL("create role {} login superuser password 'secret'").format(place))
        pg.execute(
            sql.SQL("create database {0} owner {0} template template0 encoding {1} lc_collate 'C' lc_ctype 'C'").format(
                place, sql.Literal(encoding)
            )
        )
        kind = sql.SQL("database" if of_database else "role")
        for setting, value in (settings or {}).items():
            pg.execute(
                sql.SQL("alter {} {} set {} = {}").format(kind, place, sql.Identifier(setting), sql.Literal(value))
            )
        return _dsn(dsn, name, name)

    yield make
    for name in made:
        pg.execute(sql.SQL("drop database {} (force)").format(sql.Identifier(name)))
        pg.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
