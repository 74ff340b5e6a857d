"""What an app opens at import is named before a fork breaks it; what it was given, or only listens, is not."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgwerk.workers.supervising.forkcheck import conversations, other_threads

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def burst(tmp_path: Path, dsn: str, schema: str) -> Callable[..., str]:
    """What a worker says whose app does this at import."""

    def run(code: str, **popen: Any) -> str:
        (tmp_path / "opens.py").write_text(
            f"import pgwerk\napp = pgwerk.Werk({dsn!r}, schema={schema!r})\nDSN = {dsn!r}\n" + textwrap.dedent(code)
        )
        done = subprocess.run(
            [sys.executable, "-m", "pgwerk.cli", "worker", "opens:app", "--burst", "--processes", "1"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, **popen,
        )  # fmt: skip
        said: str = done.stderr
        return said

    return run


def test_threads_and_connections_of_an_import_are_named_with_the_cure(burst: Callable[..., str], dsn: str) -> None:
    said = burst("""
        import psycopg, threading, time
        connection = psycopg.connect(DSN)
        threading.Thread(target=time.sleep, args=(60,), name="ticker", daemon=True).start()
    """)
    assert "started threads that will not exist in the worker's children: ticker. Start them in an on_startup" in said
    port = conninfo_to_dict(dsn)["port"]
    assert "opened connections that all children of the worker would share: 127.0.0.1:" + str(port) in said.replace(
        "Postgres at ", ""
    )
    assert "Open them in an on_startup hook or at first use instead" in said


def test_what_only_listens_or_was_inherited_is_not_named(burst: Callable[..., str]) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    passed = socket.create_connection(listener.getsockname())
    with listener, passed:
        said = burst(
            """
            import socket
            listener = socket.create_server(("127.0.0.1", 0))
            unconnected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            pair = socket.socketpair()
            """,
            pass_fds=[passed.fileno()],
            stdin=passed.fileno(),
        )
    assert "opened connections" not in said
    assert "started threads" not in said


def test_an_app_that_opens_nothing_is_not_warned(burst: Callable[..., str]) -> None:
    assert "importing the app" not in burst("")


def test_conversations_are_told_by_their_peer(tmp_path: Path) -> None:
    before = {one.fd for one in conversations()}
    path = str(tmp_path / ".s.PGSQL.5432")
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as server:
        unix.bind(path)
        unix.listen()
        with socket.socket(socket.AF_UNIX) as one, socket.create_connection(server.getsockname()) as two:
            one.connect(path)
            found = [conversation for conversation in conversations() if conversation.fd not in before]
            assert [str(conversation) for conversation in found] == [
                f"Postgres at {path} (fd {one.fileno()})",
                f"127.0.0.1:{server.getsockname()[1]} (fd {two.fileno()})",
            ]
    assert "MainThread" not in other_threads()
