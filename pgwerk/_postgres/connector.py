"""What a new connection of ours is asked and told before its first use: the same on both sides."""

from collections.abc import Generator
from typing import Any, Protocol

import psycopg

from pgwerk._postgres.connecting import answer_within, connect_seconds
from pgwerk._postgres.driver import connection_string, shown_dsn
from pgwerk._postgres.settings import FACTS, PROBE, facts, pin

Command = tuple[bytes, list[str] | None]


class NewConnection(Protocol):
    """A connection of either side, in autocommit."""

    patience: float | None
    pooled: bool

    @property
    def prepare_threshold(self) -> int | None:
        """After how many executions a statement is prepared; None: never."""
        ...

    @prepare_threshold.setter
    def prepare_threshold(self, value: int | None) -> None: ...

    @property
    def info(self) -> psycopg.ConnectionInfo:
        """What the driver knows of it."""
        ...


class BaseConnector:
    """What connections of one DSN have in common."""

    def __init__(self, dsn: str, name: str) -> None:
        self.conninfo = connection_string(dsn, name)
        self.where = shown_dsn(dsn)
        self._seconds = connect_seconds(self.conninfo)
        self.prepare = True
        """Whether statements may be prepared; a pooler between us and Postgres forbids it."""
        self.explicit = False
        """Whether every statement needs a transaction: through a pooler, their default cannot be changed."""

    def configuration(self, connection: NewConnection) -> Generator[Command, "tuple[Any, ...] | None", bool]:
        """Yield the commands to execute; each is answered by its first row, or None.

        Returns whether transactions have to say that they are READ COMMITTED and not read-only. An error of a command
        is for `refuse_statement_mode`.
        """
        # A pooler accepts a client at once and lets its first statement wait.
        connection.patience, connection.pooled = self._seconds, True
        found = facts((yield FACTS, None), connection.info.backend_pid)
        connection.pooled = found.pooled
        if found.pooled and self.prepare:
            for text in PROBE:
                _ = yield text, None
            # The next statement may reach another server process.
            self.prepare = False
        if not self.prepare:
            connection.prepare_threshold = None
        if found.explicit:
            self.explicit = True
        elif found.to_set:
            _ = yield pin(found.to_set)
        connection.patience = answer_within(connection.pooled)
        return found.explicit
