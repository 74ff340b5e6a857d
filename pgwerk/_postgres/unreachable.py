"""Why there is no connection, from what libpq and Postgres say about it, each with its own cure."""

import re
from typing import Final, NamedTuple


class Cause(NamedTuple):
    """One reason, known by what is said."""

    said: str
    """A pattern."""
    cure: str


ANSWERS: Final = (
    Cause(
        r"database \S+ does not exist|no such database",
        "Create the database (createdb), or correct its name in the DSN; without one it is the name of the user.",
    ),
    Cause(
        r"role \S+ does not exist|no such user",
        "Create the role, or correct the user in the DSN; without one it is the name of the operating system's user.",
    ),
    Cause(
        r"password authentication failed|no password supplied|password authentication of|SASL authentication failed",
        "Check user and password: those of the DSN, in which special characters are percent-encoded, then PGUSER, "
        "PGPASSWORD and ~/.pgpass.",
    ),
    Cause(
        r"(?:[Pp]eer|[Ii]dent) authentication failed",
        "Over a socket Postgres wants the operating system's user to have the role's name. Name a host in the DSN "
        "(host=localhost) to use a password, or change pg_hba.conf.",
    ),
    Cause(
        r"no pg_hba\.conf entry.*no encryption",
        "Allow this user, database and address in pg_hba.conf; if it has an entry for encrypted connections, "
        "sslmode=require in the DSN is enough.",
    ),
    Cause(r"pg_hba\.conf", "Allow this user, database and address in pg_hba.conf, and reload Postgres."),
    Cause(
        r"too many clients|too many connections|connection slots are reserved|no more connections allowed",
        "Raise that limit, put PgBouncer in between, or use fewer processes and a smaller WerkConfig(pool_size=…).",
    ),
    Cause(r"starting up|not yet accepting|in recovery mode", "It is on its way up: try again in a moment."),
    Cause(r"shutting down", "Try again when it has been started again."),
    Cause(r"not permitted to log in", "ALTER ROLE … LOGIN, or use another user."),
    Cause(r"permission denied for database", "GRANT CONNECT ON DATABASE … TO this user, or use another one."),
    Cause(r"not currently accepting connections", "ALTER DATABASE … ALLOW_CONNECTIONS true, or use another one."),
    Cause(
        r"SSL|encryption",
        "sslmode in the DSN has to fit what Postgres offers.",
    ),
)
"""What Postgres, or PgBouncer, says itself."""

_NO_SERVER = "Check that it runs there, and the host and port of the DSN."
SILENCES: Final = (
    Cause(
        r"resolve host|translate host name|Name or service not known|name resolution|nodename nor servname|"
        r"No address associated",
        "The host's name is unknown here. Check how it is written in the DSN, and the name service.",
    ),
    Cause(
        r"socket .*No such file",
        "Check that it runs on this machine; if it listens elsewhere, name its host in the DSN (host=localhost).",
    ),
    Cause(r"Connection refused", _NO_SERVER),
    Cause(r"[Tt]imed? ?out|timeout", "Check the host and the port, and the firewalls in between."),
    Cause(
        r"[Nn]etwork is unreachable|[Nn]o route to host|Host is down", "This machine has no network that leads there."
    ),
    Cause(r"Permission denied", "This user of the operating system may not use its socket."),
)
"""What happens without an answer."""

UNUSABLE: Final = (
    Cause(
        r"does not support SSL",
        "Turn on ssl in Postgres, or give the DSN sslmode=prefer where the network can be trusted.",
    ),
    Cause(
        r"certificate|SSL error|sslmode|sslrootcert",
        "Check sslmode and sslrootcert in the DSN, and that the certificate is for this host name.",
    ),
    Cause(
        r"invalid response to SSL negotiation|expected authentication request|unsupported frontend protocol",
        "Something other than Postgres listens there: check the port.",
    ),
    Cause(
        r"session is (?:not )?read-only|not in hot standby|in hot standby|read-write",
        "No host of the DSN is what target_session_attrs asks for: check which one is the primary.",
    ),
    Cause(r"service", "Define it in ~/.pg_service.conf, or take it out of the DSN and PGSERVICE."),
    Cause(r"closed the connection", "It ended or crashed just then, or has a reason: its log says which."),
)
"""What answers, and cannot be used."""

_LOST = re.compile(
    r"terminating connection|closed the connection|connection is (?:closed|lost)|connection not open|"
    r"consuming input|sending (?:query|data)|server conn crashed|SSL SYSCALL|idle"
)
_FAILED = re.compile(r"connection to server (?:at|on) .*? failed: |^connection (?:failed|is bad): ", re.MULTILINE)
_ANSWER = re.compile(r"(?:failed: |^|bad: )[^\s:]+:  (?P<text>\S.*)", re.MULTILINE)
"""The severity, in whatever language, and two blanks."""
_OPTION = re.compile(r'invalid .*?(?:value|number|format).*?connection option "(\w+)"|invalid (\w+) value')


def explained(text: str, where: str) -> str:
    """Say why Postgres *where* cannot be used, and what to do; *text* is what libpq said."""
    if option := _OPTION.search(text):
        # The value may be anything that somebody pasted.
        return f"Postgres at {where} cannot be used: {option[1] or option[2]} in the DSN has no possible value."
    tried = _FAILED.search(text) is not None
    if answer := _ANSWER.search(text):
        said: str = answer["text"].strip().rstrip(".")
        cure = _cure(ANSWERS, said) or "Correct the DSN, or the settings of Postgres."
        return f"Postgres at {where} refused the connection: {said}. {cure}"
    if not tried and _LOST.search(text):
        return (
            f"The connection to Postgres at {where} was lost: {_first_line(text)}. The next use makes another one; "
            "if it happens often, Postgres's log says why, or whatever stands in between."
        )
    said = _first_line(_FAILED.sub("", text)).rstrip(".")
    silent, unusable = _cure(SILENCES, text), _cure(UNUSABLE, text)
    if unusable is not None and silent is None:
        return f"Postgres at {where} cannot be used: {said}. {unusable}"
    return f"Postgres at {where} does not answer: {said}. {silent or _NO_SERVER}"


def _cure(causes: tuple[Cause, ...], said: str) -> str | None:
    return next((cause.cure for cause in causes if re.search(cause.said, said)), None)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason was given")
