"""What is wrong with a DSN, in words that quote none of it: anything in it may be a part of its password."""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Final

from pgwerk.errors import ConfigError

VARIABLES: Final = ("PGWERK_DSN", "DATABASE_URL")
"""Where a DSN is looked for, in this order."""
OWN: Final = ("embedded", "memory")
"""Schemes that are not libpq's business."""

EXAMPLE = "It should look like postgresql://user:password@host:5432/database"
ENCODE = (
    "In a user and a password, these are percent-encoded: @ as %40, / as %2F, : as %3A, % as %25, a blank as %20 "
    "(urllib.parse.quote(password, safe='') does it)"
)
QUOTE = (
    "A value with blanks, quotes or backslashes stands in single quotes: password='two words', with \\' and \\\\ in it"
)

_POSTGRES = re.compile(r"postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE)
_SCHEME = re.compile(r"([a-zA-Z][\w+.-]*)://")
_LONE_PERCENT = re.compile(r"%(?![0-9a-fA-F]{2})")
_WORD = re.compile(r"\s*(?P<name>[^\s=]+)\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?!')(?P<bare>(?:\\.|\S)*))(?=\s|$)", re.DOTALL)
_FOREIGN = {
    "ssl": "libpq calls it sslmode, as in sslmode=require",
    "schema": "pass it as Werk(schema=…), or --schema",
    "pgbouncer": "leave it out: a pooler is detected",
    "prepared_statement_cache_size": "leave it out: it is an option of asyncpg",
    "connection_limit": "pass it as WerkConfig(pool_size=…)",
}
"""Parameters that other drivers take."""


def normal(dsn: str) -> str:
    """Spell a DSN as libpq does; SQLAlchemy and some platforms write the scheme in their own ways."""
    return _POSTGRES.sub("postgresql://", dsn.strip(), count=1) if _POSTGRES.match(dsn.strip()) else dsn.strip()


def problem(dsn: str, keywords: Collection[str] = ()) -> str | None:
    """Say what is wrong with a DSN and what to do; None when nothing is. *keywords*: those that libpq knows."""
    scheme = _SCHEME.match(dsn)
    if "\0" in dsn:
        return f"it holds a NUL character. {EXAMPLE}"
    if dsn[:1] in ("'", '"'):
        return "it begins with a quotation mark. Remove the quotes around it"
    if _POSTGRES.match(dsn):
        return _wrong_with_uri(normal(dsn).removeprefix("postgresql://"), keywords)
    if scheme is not None:
        if scheme[1] in OWN:
            return None
        return f"it begins with {scheme[1]}://, which is not Postgres. {EXAMPLE}"
    if re.match(r"(?:jdbc:)?postgres(?:ql)?:", dsn, re.IGNORECASE):
        return f"it has to begin with postgresql:// exactly. {EXAMPLE}"
    if "=" in dsn:
        return _wrong_with_words(dsn, keywords)
    if dsn and not dsn.startswith("embedded:"):
        return f"it has to begin with postgresql://, or be words like host=localhost dbname=mydb. {EXAMPLE}"
    return None


def _wrong_with_uri(rest: str, keywords: Collection[str]) -> str | None:
    """Read a URI after its scheme the way libpq does: the user ends at the first @, unless a / comes before."""
    if re.search(r"[\s\x00-\x1f]", rest):
        return f"it holds a blank. {ENCODE}"
    if _LONE_PERCENT.search(rest):
        return f"a % in it is not followed by two hexadecimal digits. {ENCODE}"
    if "%00" in rest:
        return "it holds %00, which nothing in Postgres can"
    if ":***@" in rest:
        return "its password is ***: hidden by who wrote it. With SQLAlchemy: url.render_as_string(hide_password=False)"
    user, at, place = rest.partition("@")
    if not at or "/" in user:
        user, at, place = "", "", rest
    address, _, query = place.partition("?")
    if "@" in address:
        return f"it holds an @ too many, or a / before the @. {ENCODE}"
    hosts = address.partition("/")[0]
    # After an @, or where there is no password at all, what is named cannot be a part of one.
    exposed = not at and ":" in hosts
    return _wrong_with_hosts(hosts) or _wrong_with_query(query, keywords, exposed=exposed)


def _wrong_with_hosts(hosts: str) -> str | None:
    for host in hosts.split(","):
        port = re.fullmatch(r"(?:\[[^\[\]]*\]|[^\[\]:]*)(?::(\d*))?", host)
        if port is None:
            return f"what follows its host is not the number of a port. {ENCODE}. An IPv6 address stands in [brackets]"
        if port[1] and not 0 < int(port[1]) < 65536:
            return "its port is not a number from 1 to 65535"
    return None


def _wrong_with_query(query: str, keywords: Collection[str], *, exposed: bool) -> str | None:
    for pair in query.split("&") if query else ():
        name, equals, _ = pair.partition("=")
        if not equals:
            return f"what follows its ? is not parameter=value. {ENCODE}"
        if keywords and name not in keywords and pair != "ssl=true":
            return _unknown("parameter", "" if exposed else name, keywords, ENCODE)
    return None


def _wrong_with_words(dsn: str, keywords: Collection[str]) -> str | None:
    position, exposed = 0, False
    while dsn[position:].strip():
        word = _WORD.match(dsn, position)
        if word is None:
            quoted = re.match(r"\s*[^\s=]+\s*=\s*'", dsn[position:]) is not None
            return f"a value in single quotes does not end. {QUOTE}" if quoted else f"a word in it has no =. {QUOTE}"
        if keywords and word["name"] not in keywords:
            return _unknown("option", "" if exposed else word["name"], keywords, QUOTE)
        # What follows a bare password may be the rest of it.
        exposed = exposed or (word["name"] == "password" and word["bare"] is not None)
        position = word.end()
    return None


def _unknown(what: str, name: str, keywords: Collection[str], cure: str) -> str:
    if not re.fullmatch(r"[a-zA-Z_]+", name):
        return f"libpq does not know one of its {what}s. {cure}"
    if name in _FOREIGN:
        return f"libpq does not know its {what} {name!r}: {_FOREIGN[name]}"
    near = difflib.get_close_matches(name, sorted(keywords), n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "libpq's documentation has them all"
    return f"libpq does not know its {what} {name!r}. {hint}"


def unfit(given: Mapping[str, object]) -> str | None:
    """Say which option of a DSN that libpq could read needs a number and has none."""
    for name in NUMBERS:
        text = str(given.get(name) or "0")
        if not all(re.fullmatch(r"\s*-?\d*\s*", each) for each in text.split(",")):
            return f"its {name} is not a whole number. {QUOTE}"
    return None


NUMBERS: Final = (
    "port", "connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count",
    "tcp_user_timeout",
)  # fmt: skip
"""Options that are numbers."""


def unreadable(dsn: str, why: str, environ: Mapping[str, str]) -> ConfigError:
    """Make the error for a DSN that cannot be read; it names the variable that the DSN is from."""
    home = next((f" in {name}" for name in VARIABLES if normal(environ.get(name, "")) == normal(dsn)), "")
    return ConfigError(f"the DSN{home} cannot be read: {why}.".replace("?.", "?").replace("..", "."))


def checked(dsn: object, environ: Mapping[str, str]) -> str:
    """Spell a DSN as libpq does; raises ConfigError for what can be no DSN, without asking libpq."""
    if not isinstance(dsn, str):
        kind = f"{type(dsn).__module__}.{type(dsn).__qualname__}"
        cure = "str() of it"
        if hasattr(dsn, "render_as_string"):
            cure = "url.render_as_string(hide_password=False)"
        raise ConfigError(f"the DSN must be text, not a {kind}: pass {cure}")
    found = normal(dsn)
    # The other way of writing one is left to libpq, which alone knows its options.
    why = problem(found) if "://" in found and not re.match(r"\s*\w+\s*=", found) else None
    if why is not None:
        raise unreadable(found, why, environ)
    return found
