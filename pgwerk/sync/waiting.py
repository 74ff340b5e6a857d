"""Waiting for jobs to end: one listening thread a process, shared by all who wait, and polling besides."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pgwerk._app.deadlines import deadline
from pgwerk._app.ports import Listener
from pgwerk._app.waiting import LINGER, Ends, Listening, Wait, Waits
from pgwerk._core.operation import Operation
from pgwerk._core.operations.wait import await_ends
from pgwerk.errors import ConnectionFailed, WerkError

logger = logging.getLogger("pgwerk.waiting")

GLANCE = 0.1
"""Seconds between two looks whether somebody listens by now."""


class WaitingRoom:
    """Where threads wait for the ends of jobs."""

    def __init__(self, run: Callable[[Operation[Any]], Any], listener: Callable[[], Listener]) -> None:
        self._run_op = run
        self._listener = listener
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
        state = self._state()
        heard = threading.Event()
        wait = Wait(frozenset(ids), heard.set)
        tried: threading.Thread | None = None
        try:
            with state.lock:
                state.waits.add(wait)
            while True:
                tried = self._listen(state, tried, ends.for_listening(time.monotonic()))
                heard.clear()
                # Marked as awaited only after we listen, and again at each look: somebody may have queued a job
                # again meanwhile. From here on no end is missed.
                with deadline(ends.remaining(time.monotonic())):
                    try:
                        ends.seen(self._run_op(await_ends(ends.left)))
                    except ConnectionFailed as error:
                        _ = ends.patience(time.monotonic(), error)
                        raise
                if not ends.left:
                    return
                _ = heard.wait(ends.patience(time.monotonic()))
        finally:
            with state.lock:
                state.waits.discard(wait)

    def _listen(self, state: "_State", tried: threading.Thread | None, seconds: float) -> threading.Thread | None:
        """See to it that somebody listens, if that is possible within so many seconds; the thread that does or tries.

        *tried*: the one that was waited for before. When it has come to listen after all, it wakes everybody.
        """
        with state.lock:
            thread = state.thread
            if (thread is None or not thread.is_alive()) and state.may_listen():
                thread = self._start(state)
        if thread is None or thread is tried:
            return thread
        until = time.monotonic() + seconds
        # In steps, so that an interruption of this thread arrives.
        while not state.ready.wait(min(GLANCE, max(0.0, until - time.monotonic()))):
            if time.monotonic() >= until:
                break
        return thread

    def _start(self, state: "_State") -> threading.Thread | None:
        state.ready.clear()
        state.thread = threading.Thread(target=self._run, args=(state,), name="pgwerk-waiting", daemon=True)
        try:
            state.thread.start()
        except RuntimeError:
            # The interpreter is shutting down, or there are too many threads: polling suffices.
            state.thread = None
        return state.thread

    def _run(self, state: "_State") -> None:
        listener = self._listener()
        connected = False
        try:
            listener.connect()
            connected = True
            if not listener.deaf:
                self._hear(state, listener)
        except WerkError as error:
            if state.closed.is_set():
                return
            if connected:
                logger.info("the listening connection was lost: %s", error)
                return
            logger.warning("cannot listen for finished jobs, polling instead: %s", error)
            with state.lock:
                state.listening.failed(time.monotonic())
        finally:
            listener.close()
            with state.lock:
                state.listening.deaf = listener.deaf
                state.thread = None
                # Whoever waits looks again, and listens again.
                state.waits.wake_all()
                state.ready.set()

    def _hear(self, state: "_State", listener: Listener) -> None:
        """Pass on what is heard until nobody has waited for a while; if nobody does any more, not at all."""
        with state.lock:
            # First those who look already, then those who wait for this: they will look anyway.
            state.waits.wake_all()
            state.ready.set()
            last_use = time.monotonic() if state.waits else -LINGER
        while time.monotonic() - last_use < LINGER and not state.closed.is_set():
            for _, payload in listener.wait(0.5):
                with state.lock:
                    state.waits.tell(payload)
            if state.waits:
                last_use = time.monotonic()


class _State:
    """Who waits in one process, and the thread that listens for them."""

    def __init__(self) -> None:
        # One that its holder may take again: a signal handler may wait for a job while it interrupts one who does.
        self.lock = threading.RLock()
        self.waits = Waits()
        self.listening = Listening()
        self.thread: threading.Thread | None = None
        self.ready = threading.Event()
        """The thread listens, or has ended."""
        self.closed = threading.Event()

    def may_listen(self) -> bool:
        """Whether to start a thread."""
        return not self.closed.is_set() and self.listening.promising(time.monotonic())
