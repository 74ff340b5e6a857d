"""Why there is no connection: what really is wrong is said, with its own cure."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgwerk import Werk, aio
from pgwerk._postgres.unreachable import explained
from pgwerk.errors import ConnectionFailed

SSL_REQUEST = 80877103
PASSWORD = (
    "Check user and password: those of the DSN, in which special characters are percent-encoded, then PGUSER, "
    "PGPASSWORD and ~/.pgpass."
)
SAID = {
    'database "nope" does not exist': "Create the database (createdb), or correct its name in the DSN; without one it "
    "is the name of the user.",
    "no such database: nope": "Create the database (createdb), or correct its name in the DSN; without one it is the "
    "name of the user.",
    'role "u" does not exist': "Create the role, or correct the user in the DSN; without one it is the name of the "
    "operating system's user.",
    'password authentication failed for user "u"': PASSWORD,
    'Peer authentication failed for user "u"': "Over a socket Postgres wants the operating system's user to have the "
    "role's name. Name a host in the DSN (host=localhost) to use a password, or change pg_hba.conf.",
    'no pg_hba.conf entry for host "1.2.3.4", user "u", database "d", no encryption': "Allow this user, database and "
    "address in pg_hba.conf; if it has an entry for encrypted connections, sslmode=require in the DSN is enough.",
    'no pg_hba.conf entry for host "1.2.3.4", user "u", database "d", SSL encryption': "Allow this user, database and "
    "address in pg_hba.conf, and reload Postgres.",
    'pg_hba.conf rejects connection for host "1.2.3.4", user "u"': "Allow this user, database and address in "
    "pg_hba.conf, and reload Postgres.",
    "the database system is starting up": "It is on its way up: try again in a moment.",
    "the database system is not yet accepting connections": "It is on its way up: try again in a moment.",
    "the database system is in recovery mode": "It is on its way up: try again in a moment.",
    "the database system is shutting down": "Try again when it has been started again.",
    'role "u" is not permitted to log in': "ALTER ROLE … LOGIN, or use another user.",
    'permission denied for database "d"': "GRANT CONNECT ON DATABASE … TO this user, or use another one.",
    'database "d" is not currently accepting connections': "ALTER DATABASE … ALLOW_CONNECTIONS true, or use another "
    "one.",
    "Passwort-Authentifizierung für Benutzer »u« fehlgeschlagen": "Correct the DSN, or the settings of Postgres.",
}

USED_UP = {
    "sorry, too many clients already": "those of the server are used up (max_connections)",
    "remaining connection slots are reserved for roles with the SUPERUSER attribute": "those of the server are used up "
    "(max_connections)",
    'too many connections for role "u"': "those of this role are used up (ALTER ROLE … CONNECTION LIMIT)",
    'too many connections for database "d"': "those of this database are used up (ALTER DATABASE … CONNECTION LIMIT)",
    "no more connections allowed (max_client_conn)": "the pooler's clients are used up (PgBouncer: max_client_conn)",
}

Serve = Callable[[bytes], int]


def fatal(message: str) -> bytes:
    """What Postgres sends instead of letting somebody in."""
    fields = ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", "28000"), (b"M", message))
    body = b"".join(kind + text.encode() + b"\0" for kind, text in fields) + b"\0"
    return b"E" + struct.pack("!i", len(body) + 4) + body


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Listen on a port and give everybody who starts up the same answer; None is given without TLS."""
    with contextlib.ExitStack() as stack:

        def answer(connection: socket.socket, text: bytes) -> None:
            with connection, contextlib.suppress(OSError, struct.error):
                length, code = struct.unpack("!ii", connection.recv(8))
                if code == SSL_REQUEST:
                    connection.sendall(b"N")
                    length, _ = struct.unpack("!ii", connection.recv(8))
                _ = connection.recv(length - 8)
                connection.sendall(text)

        def accept(listening: socket.socket, text: bytes) -> None:
            with contextlib.suppress(OSError):
                while True:
                    answer(listening.accept()[0], text)

        def serve(text: bytes) -> int:
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(target=accept, args=(listening, text), daemon=True).start()
            port: int = listening.getsockname()[1]
            return port

        yield serve


def refused(dsn: str) -> str:
    """What is said to who tries."""
    with pytest.raises(ConnectionFailed) as caught:
        Werk(dsn, pool=False).connect()
    return str(caught.value)


@pytest.mark.parametrize(("said", "cure"), list(SAID.items()))
def test_what_postgres_answers_is_said_with_its_cure(serve: Serve, said: str, cure: str) -> None:
    port = serve(fatal(said))
    where = f"Postgres at u@127.0.0.1:{port}/nope"
    assert refused(f"postgresql://u:hunter2@127.0.0.1:{port}/nope") == f"{where} refused the connection: {said}. {cure}"


@pytest.mark.parametrize(("said", "meaning"), list(USED_UP.items()))
def test_connections_that_are_used_up_are_named_with_their_setting(serve: Serve, said: str, meaning: str) -> None:
    port = serve(fatal(said))
    told = refused(f"postgresql://u:hunter2@127.0.0.1:{port}/nope")
    assert told.startswith(f"No connection to Postgres at u@127.0.0.1:{port}/nope is left: {meaning}. ")
    assert "hunter2" not in told


def test_the_same_through_asyncio(serve: Serve) -> None:
    port = serve(fatal('database "nope" does not exist'))

    async def connect() -> str:
        with pytest.raises(ConnectionFailed) as caught:
            await aio.Werk(f"postgresql://u@127.0.0.1:{port}/nope").connect()
        return str(caught.value)

    assert 'refused the connection: database "nope" does not exist. Create' in asyncio.run(connect())


@pytest.mark.parametrize(
    ("answer", "options", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "", ("cannot be used: expected authentication request from server, but "
         "received H. Something other than Postgres listens there: check the port.")),
        (b"", "?sslmode=require", ("cannot be used: server does not support SSL, but SSL was required. Turn on ssl in "
         "Postgres, or give the DSN sslmode=prefer where the network can be trusted.")),
        (b"", "", ("cannot be used: server closed the connection unexpectedly. It ended or crashed just then, or has a "
         "reason: its log says which.")),
        (b"", "?sslmode=sometimes", "cannot be used: sslmode in the DSN has no possible value."),
    ],
)  # fmt: skip
def test_what_answers_and_cannot_be_used(serve: Serve, answer: bytes, options: str, said: str) -> None:
    port = serve(answer)
    dsn = f"postgresql://u:hunter2@127.0.0.1:{port}/d{options}"
    assert refused(dsn) == f"Postgres at u@127.0.0.1:{port}/d {said}"


def test_where_nobody_answers(tmp_path: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    silent = "does not answer"
    runs = "Check that it runs there, and the host and port of the DSN."
    assert refused(f"postgresql://127.0.0.1:{port}/d") == (
        f"Postgres at 127.0.0.1:{port}/d {silent}: Connection refused. {runs}"
    )
    assert refused(f"postgresql:///d?host={tmp_path}") == (
        f"Postgres at {tmp_path}:5432/d {silent}: No such file or directory. Check that it runs on this machine; "
        "if it listens elsewhere, name its host in the DSN (host=localhost)."
    )
    said = refused("postgresql://no-such-host.invalid/d")
    assert said.startswith(f"Postgres at no-such-host.invalid:5432/d {silent}: failed to resolve host")
    assert said.endswith("The host's name is unknown here. Check how it is written in the DSN, and the name service.")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        assert refused(f"postgresql://127.0.0.1:{port}/d?connect_timeout=2") == (
            f"Postgres at 127.0.0.1:{port}/d {silent}: connection timeout expired. "
            "Check the host and the port, and the firewalls in between."
        )


def test_what_a_real_server_says(dsn: str, pg: psycopg.Connection, schema: str) -> None:
    role = f"{schema}_role"
    alter = sql.SQL("alter role {} {}")
    as_role = make_conninfo(dsn, user=role, password="hunter2")
    _ = pg.execute(sql.SQL("create role {} nologin password 'hunter2'").format(sql.Identifier(role)))
    try:
        assert f'role "{role}" is not permitted to log in. ALTER ROLE … LOGIN' in refused(as_role)
        _ = pg.execute(alter.format(sql.Identifier(role), sql.SQL("login connection limit 0")))
        assert "those of this role are used up (ALTER ROLE … CONNECTION LIMIT)" in refused(as_role)
        said = refused(make_conninfo(dsn, user=role, password="hunter3"))
        assert f'password authentication failed for user "{role}". {PASSWORD}' in said
        assert "hunter" not in said
    finally:
        _ = pg.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
    said = refused(make_conninfo(dsn, dbname=schema))
    assert f'refused the connection: database "{schema}" does not exist. Create the database' in said


def test_a_connection_that_is_lost_is_not_one_that_was_refused(dsn: str, schema: str, pg: psycopg.Connection) -> None:
    with Werk(dsn, schema=schema) as app, psycopg.connect(dsn, autocommit=True) as own:
        _ = pg.execute("select pg_terminate_backend(%s)", [own.info.backend_pid])
        with pytest.raises(ConnectionFailed, match=r"^The connection to Postgres at .* was lost: terminating conn"):
            _ = app.enqueue("shop.f", _conn=own)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("consuming input failed: server closed the connection unexpectedly", "was lost: consuming input failed"),
        ("the connection is closed", "was lost: the connection is closed"),
        (('connection failed: connection to server at "::1", port 5 failed: Connection refused\n\tIs it?\nMultiple '
         "connection attempts failed. All failures were:\n- host: 'a', port: '5', hostaddr: '::1': connection failed: "
         "connection to server at \"::1\", port 5 failed: Connection refused\n- host: 'a', port: '5', hostaddr: "
         "'127.0.0.1': connection failed: connection to server at \"127.0.0.1\", port 5 failed: FATAL:  database "
         '"d" does not exist'), 'refused the connection: database "d" does not exist. Create'),
        ("", "does not answer: no reason was given."),
        ('connection is bad: definition of service "x" not found', "~/.pg_service.conf"),
        (('connection failed: connection to server at "h" (1.2.3.4), port 1 failed: SSL error: certificate verify '
         "failed"), "cannot be used: SSL error: certificate verify failed. Check sslmode and sslrootcert"),
        ('connection failed: connection to server at "h" (1.2.3.4), port 1 failed: session is read-only',
         "cannot be used: session is read-only. No host of the DSN is what target_session_attrs asks for"),
    ],
)  # fmt: skip
def test_other_things_that_libpq_says(text: str, said: str) -> None:
    assert said in explained(text, "h:1/d")
