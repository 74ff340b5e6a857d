"""What both pools share: how long to go on trying, what a refusal means, and which connection can be used again."""

import math
import select
from typing import Any

import psycopg
from psycopg import conninfo, pq

from pgwerk._app.deadlines import remaining
from pgwerk._core import backoff
from pgwerk._handlers.run import INTERRUPTIONS
from pgwerk._postgres.driver import translated
from pgwerk.errors import ConnectionFailed, WerkError

MAX_IDLE = 60.0
"""Seconds that a connection is kept without being used."""

BUSY_SECONDS = 10.0
"""Seconds to wait for a connection that other threads or tasks of this process use."""

ANSWER_SECONDS = 20.0
"""Seconds that a statement may take behind a pooler, which lets it wait in silence for a connection of its own."""

GLANCE = 0.01
"""Seconds between two looks whether somebody has given a connection back, while new ones are refused."""

_LONGEST_PAUSE = 0.4


class Unanswered(psycopg.OperationalError):
    """A statement got no answer in time; its connection is of no more use."""


# Deadlines --------------------------------------------------------------------------


def answer_within(pooled: bool) -> float | None:
    """Seconds that the next answer may take; *pooled*: a pooler is between us and Postgres."""
    left = remaining()
    if left is None:
        return ANSWER_SECONDS if pooled else None
    return None if left == math.inf else max(0.05, left)


def connect_seconds(text: str) -> float:
    """Seconds that one attempt to connect may take to be answered, by its connect_timeout."""
    try:
        found = float(conninfo.conninfo_to_dict(text).get("connect_timeout") or 0)
    except (psycopg.Error, ValueError):
        found = 0.0
    return max(2.0, found) if found > 0 else ANSWER_SECONDS


def unanswered(seconds: float, pooled: bool) -> Unanswered:
    """The error for an answer that did not come."""
    text = f"no answer within {seconds:.3g} s"
    if pooled:
        text += (
            "; the connection pooler in between may have no server connection free "
            "(PgBouncer: default_pool_size, max_db_connections)"
        )
    return Unanswered(text)


# Refusals ---------------------------------------------------------------------------

_HOPELESS = (
    "authentication failed", "no password supplied", "does not exist", "pg_hba.conf", "failed to resolve",
    "could not translate host name", "certificate", "not permitted to log in", "is not currently accepting connections",
    "unsupported startup parameter", "no such database",
)  # fmt: skip
"""Refusals that another try does not change."""

_USED_UP = (
    ("too many connections for role", "those of this role", "ALTER ROLE … CONNECTION LIMIT"),
    ("too many connections for database", "those of this database", "ALTER DATABASE … CONNECTION LIMIT"),
    ("too many clients already", "those of the server", "max_connections"),
    ("remaining connection slots", "those of the server", "max_connections"),
    ("max_db_client_connections", "the pooler's clients of this database", "PgBouncer: max_db_client_connections"),
    ("max_user_client_connections", "the pooler's clients of this user", "PgBouncer: max_user_client_connections"),
    ("max_client_conn", "the pooler's clients", "PgBouncer: max_client_conn"),
    ("max_db_connections", "the pooler's connections to this database", "PgBouncer: max_db_connections"),
    ("max_user_connections", "the pooler's connections for this user", "PgBouncer: max_user_connections"),
    ("query_wait_timeout", "the pooler's connections to Postgres", "PgBouncer: default_pool_size"),
)
"""What the server or pooler says, which connections it means, and the setting that limits them."""


def used_up(error: BaseException) -> str | None:
    """What is used up, and the setting that limits it, when that is why *error* happened."""
    text = "" if isinstance(error, Unanswered) else str(error)
    for sign, which, setting in _USED_UP:
        if sign in text:
            return f"{which} are used up ({setting})"
    # In another language, it may be any of them.
    return "all are used up" if getattr(error, "sqlstate", None) == "53300" else None


def hopeless(error: psycopg.Error) -> bool:
    """Whether trying to connect again would change nothing."""
    if not isinstance(error, psycopg.OperationalError):
        return True
    text = str(error)
    return used_up(error) is None and any(sign in text for sign in _HOPELESS)


def refused(error: psycopg.Error, where: str, ours: int = 0) -> WerkError:
    """The error for a connection that was not made; *ours*: how many this process's pool has."""
    meaning = used_up(error)
    if meaning is None:
        return translated(error, where)
    have = f"This app has {ours} open in this process" if ours else "This app has none open in this process"
    return ConnectionFailed(
        f"No connection to Postgres at {where} is left: {meaning}. {have}; it keeps at most WerkConfig(pool_size=…), "
        "and a worker uses two more for each of its processes. Raise the limit, or use fewer processes."
    )


class Tries:
    """How long to go on trying to connect; the clock and the draws are the caller's."""

    def __init__(self, seconds: float, now: float) -> None:
        left = remaining()
        self._refused_until = now + seconds
        self._busy_until = now + max(seconds, BUSY_SECONDS)
        self._limit = math.inf if left is None else now + left
        self._failures = 0

    def pause(self, error: psycopg.Error, where: str, ours: int, now: float, draw: float) -> float:
        """Seconds until the next try; raises ConnectionFailed when there is to be none.

        *ours*: how many connections of this process may become free meanwhile.
        """
        self._failures += 1
        until = self._busy_until if ours and used_up(error) else self._refused_until
        delay = backoff.jittered(backoff.exponential(self._failures, base=0.05, cap=_LONGEST_PAUSE), draw)
        if hopeless(error) or now + delay > min(until, self._limit):
            raise refused(error, where, ours) from error
        return delay


def slot_seconds(pool_timeout: float) -> float:
    """Seconds to wait while all connections of this process are in use."""
    left = remaining()
    most = max(pool_timeout, BUSY_SECONDS)
    return most if left is None else max(0.0, min(most, left))


def all_in_use(size: int, seconds: float, where: str) -> ConnectionFailed:
    """The error when no connection of this process became free in time."""
    return ConnectionFailed(
        f"all {size} connections of this process to Postgres at {where} were in use for {seconds:.3g} s: "
        "raise WerkConfig(pool_size=…), or look for calls that hang"
    )


# Using one again --------------------------------------------------------------------


def unharmed(pgconn: pq.abc.PGconn, error: BaseException | None) -> bool:
    """Whether a connection can be lent again after *error*.

    Only what Postgres or the operation itself said leaves it as it should be. Anything else (a cancellation, Ctrl-C,
    what a signal handler raised) came at some moment inside psycopg, which may now believe anything about it: that a
    statement is prepared, or that an answer is still to come.
    """
    if (
        pgconn.status != pq.ConnStatus.OK
        or pgconn.pipeline_status != pq.PipelineStatus.OFF
        or pgconn.transaction_status != pq.TransactionStatus.IDLE
    ):
        return False
    if error is None:
        return True
    if isinstance(error, psycopg.Error):
        return error.sqlstate is not None
    return isinstance(error, WerkError) and not isinstance(error, INTERRUPTIONS)


def silent(pgconn: pq.abc.PGconn) -> bool:
    """Whether an idle connection has nothing to say; one that has was most likely closed by the other side."""
    if pgconn.status != pq.ConnStatus.OK:
        return False
    try:
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        return not poll.poll(0)
    except (psycopg.Error, OSError, ValueError):
        return False


def forget_prepared(connection: Any) -> None:
    """Make psycopg forget what it believes to be prepared on a caller's connection.

    After a pipeline that failed or was cut off it believes in statements that Postgres never got to see, and would
    ask for them again and again. What is prepared on the server stays there; names are not used twice.
    """
    manager = getattr(connection, "_prepared", None)
    for name in ("_names", "_counts"):
        found = getattr(manager, name, None)
        if found is not None:
            found.clear()
