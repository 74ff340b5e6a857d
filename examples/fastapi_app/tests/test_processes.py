"""A real server and a real worker, started as the README says."""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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


class Quiet(http.server.BaseHTTPRequestHandler):
    """A page of its own to watch."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<title>A page</title>")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class calls it so
        pass


@pytest.fixture
def page() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def ask(url: str, data: dict[str, str], seconds: float = 30.0) -> Any:
    """Post JSON, as soon as the server listens."""
    request = urllib.request.Request(url, json.dumps(data).encode(), {"Content-Type": "application/json"})
    until = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def test_a_page_is_looked_at_by_a_worker_process(page: str) -> None:
    base = f"http://127.0.0.1:{(port := free_port())}"
    server = process("uvicorn", "examples.fastapi_app.app:app", "--port", str(port), "--log-level", "warning")
    worker = process(
        "pgwerk.cli", "worker", "examples.fastapi_app.app:werk", "--worker-type", "async", "--queues", "pages"
    )
    with server as serving, worker as working:
        found = ask(f"{base}/pages?wait=25", {"url": page})
        assert (found["title"], found["job"]["status"]) == ("A page", "complete")
    assert working.returncode == 0
    assert serving.returncode in (0, -signal.SIGTERM)


def test_importing_the_app_connects_to_nothing() -> None:
    program = "from examples.fastapi_app.app import app, werk; import threading; print(threading.active_count())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"},
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert done.stdout.strip() == "1"
