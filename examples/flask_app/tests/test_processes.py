"""A real server and a real worker, started as the README says."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def process(*command: str) -> Iterator["subprocess.Popen[bytes]"]:
    started = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(15)
        finally:
            started.kill()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def fetch(url: str, data: dict[str, str] | None = None, seconds: float = 20.0) -> tuple[str, str]:
    """Get or post, as soon as the server listens; where one ended up, and the page."""
    body = urllib.parse.urlencode(data).encode() if data else None
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, body, timeout=10) as answer:
                return answer.url, answer.read().decode()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@pytest.mark.usefixtures("app")
def test_a_report_is_built_by_a_worker_process() -> None:
    base = f"http://127.0.0.1:{(port := free_port())}"
    server = process("flask", "--app", "examples.flask_app.app", "run", "--port", str(port))
    worker = process("pgwerk.cli", "worker", "examples.flask_app.app:werk", "--processes", "2")
    with server, worker as working:
        _, page = fetch(f"{base}/")
        token = re.search(r'name="token" value="([^"]+)"', page)
        assert token is not None
        sent = {"token": token[1], "title": "Real", "currency": "USD", "sales": "tea, 10"}
        where, page = fetch(f"{base}/reports", sent)
        assert "Real" in page
        until = time.monotonic() + 30
        while (found := json.loads(fetch(f"{where}.json")[1]))["job"]["status"] != "complete":
            assert time.monotonic() < until, found
            time.sleep(0.1)
        assert found["totals"] == {"tea": "9.00"}
    assert working.returncode == 0


def test_importing_the_app_connects_to_nothing() -> None:
    program = "from examples.flask_app.app import app, werk; import threading; print(threading.active_count())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"},
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout.strip() == "1"
