"""Waiting for jobs to end: one listening thread a process, shared by all who wait, and polling besides."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence

from pgwerk._core.operations.wait import await_ends
from pgwerk._waiting import LINGER, LISTEN_SECONDS, Ends, Waits
from pgwerk.errors import WerkError
from pgwerk.sync.executor import Executor
from pgwerk.sync.listener import Listener

logger = logging.getLogger("pgwerk.waiting")


class WaitingRoom:
    """Where threads wait for the ends of jobs."""

    def __init__(self, executor: Executor, channel: str, dsn: str | None) -> None:
        self._executor = executor
        self._channel = channel
        self._dsn = dsn
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waits = Waits()
        self._thread: threading.Thread | None = None
        self._listening = threading.Event()
        self._closed = threading.Event()

    def close(self) -> None:
        """End the listening thread; who still waits goes on polling."""
        self._closed.set()
        thread = self._thread
        if thread is not None and self._pid == os.getpid():
            thread.join(2.0)
        self._forget()

    def wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        """Return when all these jobs have ended; raises JobTimeout and JobNotFound."""
        ends = Ends(ids, timeout, poll_interval, time.monotonic())
        with self._waiting(ids) as heard:
            while True:
                heard.clear()
                # Marked as awaited only after we listen, and again at each look: somebody may have queued a job
                # again meanwhile. From here on no end is missed.
                ends.seen(self._executor.run(await_ends(ends.left)))
                if not ends.left:
                    return
                _ = heard.wait(ends.patience(time.monotonic()))

    @contextlib.contextmanager
    def _waiting(self, ids: Sequence[str]) -> Iterator[threading.Event]:
        if self._pid != os.getpid():
            self._forget()
        heard = threading.Event()
        with self._lock:
            wait = self._waits.add(ids, heard.set)
            if self._thread is None or not self._thread.is_alive():
                self._listening.clear()
                self._thread = threading.Thread(target=self._listen, name="pgwerk-waiting", daemon=True)
                self._thread.start()
        _ = self._listening.wait(LISTEN_SECONDS)
        try:
            yield heard
        finally:
            with self._lock:
                self._waits.discard(wait)

    def _listen(self) -> None:
        listener = Listener(self._executor, [self._channel], self._dsn)
        try:
            listener.connect()
            self._listening.set()
            last_use = time.monotonic()
            while time.monotonic() - last_use < LINGER and not self._closed.is_set():
                for _, payload in listener.wait(0.5):
                    self._tell(payload)
                if self._waits:
                    last_use = time.monotonic()
        except WerkError as error:
            if not self._closed.is_set():
                logger.warning("not listening for the ends of jobs, polling instead: %s", error)
        finally:
            listener.close()
            self._listening.set()
            with self._lock:
                self._thread = None
                self._waits.wake_all()

    def _tell(self, payload: str) -> None:
        with self._lock:
            self._waits.tell(payload)
