"""Waiting for jobs to end: one listening thread a process, shared by all who wait, and polling besides."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence

from pgwerk._app.waiting import LINGER, LISTEN_SECONDS, Ends, Waits
from pgwerk._core.operations.wait import await_ends
from pgwerk._core.statements import queries
from pgwerk._postgres.deadlines import deadline
from pgwerk._postgres.driver import PROOF_SECONDS
from pgwerk._postgres.own_connection import OwnConnection
from pgwerk.errors import ConnectionFailed, WerkError
from pgwerk.sync.executor import Executor
from pgwerk.sync.listener import Listener

logger = logging.getLogger("pgwerk.waiting")


class _Quick(OwnConnection):
    """A connection that answers soon, or is given up."""

    patience = LISTEN_SECONDS


class _Ears(Listener):
    """The listener of those who wait."""

    kind = _Quick

    def _proves_itself(self) -> bool:
        # Over the pool, whose connections are there anyway.
        assert self._connection is not None
        self._executor.run(queries.tell_waiters())
        for notify in self._connection.notifies(timeout=PROOF_SECONDS, stop_after=1):
            return bool(notify.payload)
        return False


class WaitingRoom:
    """Where threads wait for the ends of jobs."""

    def __init__(self, executor: Executor, channel: str, dsn: str | None) -> None:
        self._executor = executor
        self._channel = channel
        self._dsn = dsn
        self._states: dict[int, _State] = {}
        """By process; there is one, unless we were forked."""

    def _state(self) -> "_State":
        pid = os.getpid()
        found = self._states.get(pid)
        if found is None:
            # By setdefault, which is atomic: threads may meet here, and a lock would not survive a fork.
            found = self._states.setdefault(pid, _State())
            for other in list(self._states):
                if other != pid:
                    _ = self._states.pop(other, None)
        return found

    def close(self) -> None:
        """End the listening thread; who still waits goes on polling."""
        state = self._states.pop(os.getpid(), None)
        if state is not None:
            state.closed.set()
            if state.thread is not None:
                state.thread.join(2.0)

    def wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        """Return when all these jobs have ended; raises JobTimeout and JobNotFound."""
        ends = Ends(ids, timeout, poll_interval, time.monotonic())
        with self._waiting(ids, ends.for_listening(time.monotonic())) as heard:
            while True:
                heard.clear()
                # Marked as awaited only after we listen, and again at each look: somebody may have queued a job
                # again meanwhile. From here on no end is missed.
                with deadline(ends.remaining(time.monotonic())):
                    try:
                        ends.seen(self._executor.run(await_ends(ends.left)))
                    except ConnectionFailed as error:
                        _ = ends.patience(time.monotonic(), error)
                        raise
                if not ends.left:
                    return
                _ = heard.wait(ends.patience(time.monotonic()))

    @contextlib.contextmanager
    def _waiting(self, ids: Sequence[str], seconds: float) -> Iterator[threading.Event]:
        state = self._state()
        heard = threading.Event()
        with state.lock:
            wait = state.waits.add(ids, heard.set)
        try:
            with state.lock:
                if state.thread is None or not state.thread.is_alive():
                    self._start(state)
            _ = state.listening.wait(seconds)
            yield heard
        finally:
            with state.lock:
                state.waits.discard(wait)

    def _start(self, state: "_State") -> None:
        state.listening.clear()
        state.thread = threading.Thread(target=self._listen, args=(state,), name="pgwerk-waiting", daemon=True)
        try:
            state.thread.start()
        except RuntimeError:
            # The interpreter is shutting down, or there are too many threads: polling suffices.
            state.thread = None
            state.listening.set()

    def _listen(self, state: "_State") -> None:
        listener = _Ears(self._executor, [self._channel], self._dsn)
        try:
            listener.connect()
            state.listening.set()
            last_use = time.monotonic()
            while time.monotonic() - last_use < LINGER and not state.closed.is_set():
                for _, payload in listener.wait(0.5):
                    with state.lock:
                        state.waits.tell(payload)
                if state.waits:
                    last_use = time.monotonic()
        except WerkError as error:
            if not state.closed.is_set():
                logger.warning("not listening for the ends of jobs, polling instead: %s", error)
        finally:
            listener.close()
            state.listening.set()
            with state.lock:
                state.thread = None
                state.waits.wake_all()


class _State:
    """Who waits in one process, and the thread that listens for them."""

    def __init__(self) -> None:
        # One that its holder may take again: a signal handler may wait for a job while it interrupts one who does.
        self.lock = threading.RLock()
        self.waits = Waits()
        self.thread: threading.Thread | None = None
        self.listening = threading.Event()
        self.closed = threading.Event()
