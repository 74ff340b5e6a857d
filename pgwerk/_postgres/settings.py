"""What connections of our own rely on, and how they get it although the role or the database says otherwise.

A direct connection is told once, when it is made, and only where something differs. Through a connection pooler no
setting can be left behind: there, transactions say what they need when they begin.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from pgwerk.errors import ConfigError

_TRANSACTIONS = {
    # Each statement has to see what others committed before it: two in one pipeline do the work of two snapshots.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
}
_SESSION = {
    # Nulls in arrays of parameters.
    "array_nulls": "on",
    # Numbers that come back as they went.
    "extra_float_digits": "1",
    # A listener hears nothing most of the time, and the pool closes what it does not use.
    "idle_session_timeout": "0",
}
_PINNED = _TRANSACTIONS | _SESSION

# What a version of Postgres does not have is null.
_FOUND = ", ".join(f"current_setting('{name}', true)" for name in _PINNED)
FACTS = f"select pg_backend_pid(), current_setting('server_encoding'), {_FOUND}".encode()
"""The first question on each connection of our own; `facts` reads it."""


@dataclass(frozen=True)
class Facts:
    """What a new connection is like."""

    pooled: bool
    """Somebody stands between us and the server; the next statement may reach another one."""
    wrong: Mapping[str, str]
    """Settings that have to be other than they are."""
    encoding: str = "UTF8"
    """The encoding of the database."""

    @property
    def to_set(self) -> Mapping[str, str]:
        """What to set on a connection for statements; none where the next one may run elsewhere."""
        if self.pooled:
            return {}
        # In a database without an encoding may be anything, which Postgres would refuse to show to anybody else.
        return {**self.wrong, "client_encoding": "SQL_ASCII"} if self.encoding == "SQL_ASCII" else self.wrong

    @property
    def explicit(self) -> bool:
        """Whether every statement needs a transaction that says of which kind it is."""
        return self.pooled and not self.wrong.keys().isdisjoint(_TRANSACTIONS)


def facts(row: tuple[Any, ...] | None, backend_pid: int) -> Facts:
    """Read the answer to `FACTS`; *backend_pid* is the one that the connection was told at its start."""
    if row is None:
        return Facts(pooled=False, wrong={})
    wrong = {
        name: wanted
        for (name, wanted), found in zip(_PINNED.items(), row[2:], strict=True)
        if found is not None and found != wanted
    }
    return Facts(pooled=row[0] != backend_pid, wrong=wrong, encoding=row[1])


def pin(wrong: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """The command that makes settings right for a session, and its parameters."""
    calls = ", ".join("set_config(%s, %s, false)" for _ in wrong)
    return f"select {calls}".encode(), [word for setting in wrong.items() for word in setting]


UNLIMITED = {"statement_timeout": "0"}
"""For maintenance: a role's limit is for calls that somebody waits for."""


PROBE = (b"begin", b"commit")
"""What is sent through a pooler once, for `refuse_statement_mode` to look at how it ends."""


def refuse_statement_mode(error: psycopg.Error, where: str) -> None:
    """Raise ConfigError if *error* is PgBouncer's about transactions in its statement mode."""
    if "statement pooling" in str(error):
        raise ConfigError(
            f"{where} is PgBouncer in statement mode, which allows no transaction of several statements: set "
            "pool_mode = transaction (or session) for this database, or use a DSN that leads to Postgres itself"
        ) from error
