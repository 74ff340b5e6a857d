"""A DSN that cannot be read: the cure is named, and nothing of it is shown, anywhere."""

import logging
import traceback
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import conninfo

from pgwerk import Werk, WerkConfig, aio
from pgwerk._postgres.driver import connection_string, shown_dsn
from pgwerk.config import resolved_dsn
from pgwerk.errors import ConfigError

ENCODE = (
    "In a user and a password, these are percent-encoded: @ as %40, / as %2F, : as %3A, % as %25, a blank as %20 "
    "(urllib.parse.quote(password, safe='') does it)."
)
QUOTE = (
    "A value with blanks, quotes or backslashes stands in single quotes: password='two words', with \\' and \\\\ in it."
)
EXAMPLE = "It should look like postgresql://user:password@host:5432/database."

BROKEN = {
    "mysql://u:hunter2@h/d": f"it begins with mysql://, which is not Postgres. {EXAMPLE}",
    "postgrez://u:hunter2@h/d": f"it begins with postgrez://, which is not Postgres. {EXAMPLE}",
    "jdbc:postgresql://u:hunter2@h/d": f"it has to begin with postgresql:// exactly. {EXAMPLE}",
    "postgresql:/u:hunter2@h/d": f"it has to begin with postgresql:// exactly. {EXAMPLE}",
    "u:hunter2@h/d": f"it has to begin with postgresql://, or be words like host=localhost dbname=mydb. {EXAMPLE}",
    '"postgresql://u:hunter2@h/d"': "it begins with a quotation mark. Remove the quotes around it.",
    "postgresql://u:hunter2%@h/d": f"a % in it is not followed by two hexadecimal digits. {ENCODE}",
    "postgresql://u:hun%ter2@h/d": f"a % in it is not followed by two hexadecimal digits. {ENCODE}",
    "postgresql+asyncpg://u:hunter 2@h/d": f"it holds a blank. {ENCODE}",
    "postgresql://u:hunter2/x@h/d": f"it holds an @ too many, or a / before the @. {ENCODE}",
    "postgresql://u:12/34@h/d": f"it holds an @ too many, or a / before the @. {ENCODE}",
    "postgresql://u:p@hunter2@h/d": f"it holds an @ too many, or a / before the @. {ENCODE}",
    "postgresql://u:hunter2?x/y@h/d": "what follows its host is not the number of a port. "
    f"{ENCODE[:-1]}. An IPv6 address stands in [brackets].",
    "postgresql://u:12?hunter2/y@h/d": f"what follows its ? is not parameter=value. {ENCODE}",
    "postgresql://u:12?hunter2=/y@h/d": f"libpq does not know one of its parameters. {ENCODE}",
    "postgresql://u:hunter2@h:99999/d": "its port is not a number from 1 to 65535.",
    "postgresql://u:hunter2@h/d?ssl=require": "libpq does not know its parameter 'ssl': libpq calls it sslmode, as in "
    "sslmode=require.",
    "postgresql://u:hunter2@h/d?sslmod=require": "libpq does not know its parameter 'sslmod'. Did you mean 'sslmode'?",
    "postgresql://u:***@h/d": "its password is ***: hidden by who wrote it. "
    "With SQLAlchemy: url.render_as_string(hide_password=False).",
    "postgresql://u:hunter2@h/d?connect_timeout=soon": f"its connect_timeout is not a whole number. {QUOTE}",
    "host=h password='hunter2": f"a value in single quotes does not end. {QUOTE}",
    "host=h password='hun'ter2": f"a value in single quotes does not end. {QUOTE}",
    "host=h password=my hunter2": f"a word in it has no =. {QUOTE}",
    "host=h password=my hunter2=x": f"libpq does not know one of its options. {QUOTE}",
    "host=h porrt=3 password=hunter2": "libpq does not know its option 'porrt'. Did you mean 'port'?",
    "port=three password=hunter2": f"its port is not a whole number. {QUOTE}",
}
each_broken = pytest.mark.parametrize(("dsn", "said"), list(BROKEN.items()))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGWERK_DSN", "DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)


def all_of(error: BaseException) -> str:
    """What any log, tracker or debugger could find in an error and those behind it."""
    seen: list[BaseException] = []
    queue: list[BaseException | None] = [error]
    while queue:
        one = queue.pop()
        if one is not None and one not in seen:
            seen.append(one)
            queue += [one.__cause__, one.__context__]
    return "\n".join(f"{one!r} {one} {one.args}" for one in seen) + "".join(traceback.format_exception(error))


@each_broken
def test_what_is_wrong_is_said_and_nothing_is_shown(dsn: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        connection_string(dsn, "x")
    assert str(caught.value) == f"the DSN cannot be read: {said}"
    assert "hunter2" not in all_of(caught.value)
    assert shown_dsn(dsn) == "(unreadable DSN)"


@pytest.mark.parametrize("name", ["PGWERK_DSN", "DATABASE_URL"])
@pytest.mark.parametrize("dsn", BROKEN)
def test_the_variable_that_it_is_from_is_named(dsn: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, dsn)
    with pytest.raises(ConfigError, match=f"^the DSN in {name} cannot be read: ") as caught:
        _ = Werk()._runtime.backend
    assert "hunter2" not in all_of(caught.value)


@pytest.mark.parametrize("kind", [Werk, aio.Werk])
def test_neither_app_nor_log_shows_it(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = kind("postgresql://u:hunter2@127.0.0.1:1/d", listen_dsn="postgresql://u:hunter2@127.0.0.1:1/d")
    shown = [app, app.config, app._runtime.backend, app._app.names, app._runtime.backend.where, caplog.text]
    if isinstance(app, Werk):
        with pytest.raises(ConnectionError) as caught:
            app.connect()
        shown.append(all_of(caught.value))
    assert "hunter2" not in repr(shown) + caplog.text


@pytest.mark.parametrize("dsn", [dsn for dsn in BROKEN if dsn.startswith(("my", "postgresql://u:hun", "postgrez"))])
def test_an_app_is_not_made_of_it(dsn: str) -> None:
    if "?" not in dsn.rpartition("@")[2]:
        with pytest.raises(ConfigError, match="cannot be read"):
            _ = Werk(dsn)
        with pytest.raises(ConfigError, match="cannot be read"):
            _ = Werk("postgresql://h/d", listen_dsn=dsn)


def test_a_dsn_in_the_wrong_place_is_not_shown_either() -> None:
    class Url:
        def render_as_string(self, hide_password: bool = True) -> str:
            return str(hide_password)

    dsn: Any = "postgresql://u:hunter2@h/d"
    wrong: list[Any] = [
        lambda: Werk(config=dsn),
        lambda: Werk(dsn.encode()),
        lambda: WerkConfig().with_values(dsn=dsn),
    ]
    for make in wrong:
        with pytest.raises(ConfigError) as caught:
            make()
        assert "hunter2" not in all_of(caught.value)
    with pytest.raises(ConfigError, match=r"hide_password=False"):
        _ = Werk(Url())  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize(
    "scheme",
    ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg", "postgresql+pg8000",
     "postgres+asyncpg", "PostgreSQL"],
)  # fmt: skip
def test_every_spelling_of_postgres_is_the_same(scheme: str) -> None:
    assert resolved_dsn(f" {scheme}://u:p@h:1/d\n", {}) == "postgresql://u:p@h:1/d"
    assert resolved_dsn(None, {"DATABASE_URL": f"{scheme}://u:p@h:1/d"}) == "postgresql://u:p@h:1/d"
    assert conninfo.conninfo_to_dict(connection_string(f"{scheme}://u:p@h:1/d", "x"))["password"] == "p"


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://u:p@h1:1,h2:2/d?target_session_attrs=read-write", "u@h1:1,h2:2/d"),
        ("postgresql://h1,h2:5433/d", "h1:5432,h2:5433/d"), ("postgresql://[::1]:5433/d", "[::1]:5433/d"),
        ("postgresql:///d?host=/tmp/x&port=5", "/tmp/x:5/d"), ("postgresql://%2Ftmp%2Fx/d", "/tmp/x:5432/d"),
        ("postgresql://u:p%40ss%2F@h/d", "u@h:5432/d"), ("postgresql://u:a:b#c?d@h/d", "u@h:5432/d"),
        ("host = h port=5433  dbname='a b' password='x \\' y'", "h:5433/a b"), ("service=shop", "service shop"),
        ("postgresql://u@h/d?ssl=true", "u@h:5432/d"), ("", "local socket/"), ("password=a'b host=h", "h:5432/"),
    ],
)  # fmt: skip
def test_what_libpq_reads_is_read(dsn: str, shown: str) -> None:
    assert connection_string(dsn, "x")
    assert shown_dsn(dsn) == shown


def test_where_it_is_includes_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    monkeypatch.setenv("PGDATABASE", "shop")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    assert shown_dsn("") == "db.example:5432/shop"


PASSWORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12
) | st.text("ab@/:?#[]%= '\\&,12", min_size=1, max_size=12)


@given(PASSWORDS)
def test_an_encoded_password_is_read_as_it_is(password: str) -> None:
    read = conninfo.conninfo_to_dict(connection_string(f"postgresql://u:{quote(password, safe='')}@h/d", "x"))
    assert (read["password"], read["host"]) == (password, "h")
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    assert conninfo.conninfo_to_dict(connection_string(f"host=h password='{quoted}'", "x"))["password"] == password


@given(PASSWORDS)
@example("12/34")
@example("a?b=c/d")
@example("p@ss")
@example(" x")
@example("x=y z")
def test_a_raw_password_is_read_as_it_is_or_not_shown(password: str) -> None:
    secret = f"SECRET{password}SECRET"
    for dsn in (f"postgresql://u:{secret}@h/d", f"host=h password={secret}", f"password='{secret}' host=h"):
        try:
            text = connection_string(dsn, "x")
        except ConfigError as error:
            assert "SECRET" not in all_of(error)  # noqa: PT017  # either is right
            continue
        assert "SECRET" not in shown_dsn(dsn)
        read = conninfo.conninfo_to_dict(text)
        assert "SECRET" not in str(read["host"]) + str(read.get("dbname")) + str(read.get("port"))
