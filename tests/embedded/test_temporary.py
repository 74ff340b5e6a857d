"""Servers that live as long as a block."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from pgwerk.embedded import Server, temporary
from pgwerk.embedded.throwaway import PREFIX, sweep
from pgwerk.errors import WerkError


def test_it_can_be_killed_and_started_again_on_its_port(server: Server) -> None:
    first = server.dsn
    with psycopg.connect(server.dsn) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    server.kill()
    assert server.pid is None
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn)
    server.start()
    assert server.dsn == first
    with psycopg.connect(server.dsn) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    server.stop("immediate")
    server.start()
    server.start()
    assert server.pid is not None


def test_a_password_is_needed(server: Server) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")


def test_settings_and_litter() -> None:
    with temporary(settings={"max_connections": "17"}) as server:
        root = server.cluster.root
        with psycopg.connect(server.dsn) as connection:
            shown = connection.execute(
                "SELECT current_setting('max_connections'), current_setting('fsync'), "
                "current_setting('server_encoding'), current_setting('listen_addresses')"
            ).fetchone()
    assert shown == ("17", "off", "UTF8", "127.0.0.1")
    assert not root.exists()


def test_a_wrong_setting_is_reported_in_postgres_words() -> None:
    complaint = pytest.raises(WerkError, match='unrecognized configuration parameter "no_such"')
    with complaint, temporary(settings={"no_such": "1"}):
        pass


def test_it_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from pgwerk.embedded import temporary\n"
        "with temporary() as s:\n"
        "    print(s.pid, s.cluster.root, flush=True)\n"
        "    time.sleep(60)\n"
    )
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environ) as owner:
        assert owner.stdout is not None
        pid, root = owner.stdout.readline().split()
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert Path(root).parent == tmp_path


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, age in (("old", 3600), ("young", 0)):
        lock = tmp_path / f"{PREFIX}{name}" / "owner.lock"
        lock.parent.mkdir()
        lock.touch()
        os.utime(lock, (time.time() - age, time.time() - age))
    sweep()
    assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}young"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_root_without_user_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgwerk.embedded.programs.namespaces_work", lambda: False)
    with temporary() as server:
        assert server.cluster.data.stat().st_uid != 0
        psycopg.connect(server.dsn).close()
