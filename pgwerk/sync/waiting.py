"""Waiting for jobs to end: one listening thread a process, shared by all who wait, and polling besides."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence

from pgwerk._core.job import TERMINAL
from pgwerk._core.operations.wait import await_ends
from pgwerk._core.statements import queries
from pgwerk.errors import JobNotFound, JobTimeout, WerkError
from pgwerk.sync.executor import Executor
from pgwerk.sync.listener import Listener

logger = logging.getLogger("pgwerk.waiting")

LINGER = 30.0
"""The thread ends when nobody waited for so many seconds."""


class _Wait:
    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = frozenset(ids)
        self.heard = threading.Event()


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
        self._waits: set[_Wait] = set()
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
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._waiting(ids) as wait:
            # Marked as awaited only after we listen: from here on no end is missed.
            pending = self._pending(self._executor.run(await_ends(ids)), ids)
            while pending:
                remaining = poll_interval if deadline is None else min(poll_interval, deadline - time.monotonic())
                if remaining <= 0:
                    raise JobTimeout(_not_in_time(sorted(pending), timeout or 0.0))
                _ = wait.heard.wait(remaining)
                wait.heard.clear()
                left = sorted(pending)
                # Marked again: somebody may have queued the job again meanwhile.
                pending = self._pending(self._executor.run(await_ends(left)), left)

    @staticmethod
    def _pending(ends: Sequence[queries.End], asked: Sequence[str]) -> set[str]:
        missing = set(asked) - {end.id for end in ends}
        if missing:
            raise JobNotFound(min(missing))
        return {end.id for end in ends if end.status not in TERMINAL}

    @contextlib.contextmanager
    def _waiting(self, ids: Sequence[str]) -> Iterator[_Wait]:
        if self._pid != os.getpid():
            self._forget()
        wait = _Wait(ids)
        with self._lock:
            self._waits.add(wait)
            if self._thread is None or not self._thread.is_alive():
                self._listening.clear()
                self._thread = threading.Thread(target=self._listen, name="pgwerk-waiting", daemon=True)
                self._thread.start()
        # Without it (Postgres full, a pooler) polling does.
        _ = self._listening.wait(5.0)
        try:
            yield wait
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
                for wait in self._waits:
                    wait.heard.set()

    def _tell(self, payload: str) -> None:
        ended = set(payload.split(","))
        with self._lock:
            for wait in self._waits:
                if wait.ids & ended:
                    wait.heard.set()


def _not_in_time(pending: Sequence[str], timeout: float) -> str:
    more = f" and {len(pending) - 1} more" if len(pending) > 1 else ""
    return f"job {pending[0]}{more} did not end within {timeout:g} s; it goes on"
