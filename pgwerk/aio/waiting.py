"""Waiting for jobs to end: one listening connection a loop, shared by all who wait there, and polling besides."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from pgwerk._app.deadlines import deadline
from pgwerk._app.ports import AsyncListener
from pgwerk._app.waiting import LINGER, LISTEN_SECONDS, Ends, Listening, Wait, Waits
from pgwerk._core.operation import Operation
from pgwerk._core.operations.wait import await_ends
from pgwerk._handlers.run import monotonic
from pgwerk.aio.loops import PerLoop
from pgwerk.errors import ConnectionFailed, WerkError

logger = logging.getLogger("pgwerk.waiting")

Hear: TypeAlias = "Callable[[str], None]"
"""Takes the payload of a notification, on the loop."""


class WaitingRoom:
    """Where tasks wait for the ends of jobs, each on its own loop."""

    def __init__(
        self, run: Callable[[Operation[Any]], Awaitable[Any]], listener: Callable[[Hear], AsyncListener]
    ) -> None:
        self._run = run
        self._listener = listener
        self._corners: PerLoop[_Corner] = PerLoop(_Corner.abandon)

    async def wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        """Return when all these jobs have ended; raises JobTimeout and JobNotFound."""
        corner = self._corners.get()
        if corner is None:
            corner = self._corners.put(_Corner(self._run, self._listener))
        await corner.wait(ids, timeout, poll_interval)

    def close(self) -> None:
        """Close the listening connection of this loop; who still waits goes on polling."""
        corner = self._corners.pop()
        if corner is not None:
            corner.close()


class _Corner:
    """The part of it that belongs to one loop."""

    def __init__(
        self, run: Callable[[Operation[Any]], Awaitable[Any]], listener: Callable[[Hear], AsyncListener]
    ) -> None:
        self._run = run
        self._waits = Waits()
        self._listener = listener(self._waits.tell)
        # Whoever waits looks again, and listens again.
        self._listener.on_loss = self._waits.wake_all
        self._lock = asyncio.Lock()
        self._listening = Listening()
        self._closing: asyncio.TimerHandle | None = None
        self._closed = False

    async def wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        """Return when all these jobs have ended."""
        ends = Ends(ids, timeout, poll_interval, monotonic())
        heard = asyncio.Event()
        wait = Wait(frozenset(ids), heard.set)
        self._waits.add(wait)
        self._linger()
        try:
            while True:
                await self._listen(ends.for_listening(monotonic()))
                heard.clear()
                # Marked as awaited only after we listen, and again at each look: somebody may have queued a job
                # again meanwhile. From here on no end is missed.
                with deadline(ends.remaining(monotonic())):
                    try:
                        ends.seen(await self._run(await_ends(ends.left)))
                    except ConnectionFailed as error:
                        _ = ends.patience(monotonic(), error)
                        raise
                if not ends.left:
                    return
                patience = ends.patience(monotonic())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        _ = await heard.wait()
        finally:
            self._waits.discard(wait)
            self._linger()

    async def _listen(self, seconds: float) -> None:
        """See to it that somebody listens, if that is possible within so many seconds."""
        if self._listens_or_cannot():
            return
        try:
            async with asyncio.timeout(seconds), self._lock:
                if not self._listens_or_cannot():
                    await self._listener.connect()
                    self._listening.deaf = self._listener.deaf
        except TimeoutError:
            # Or else it was only the time of the one who waits.
            if seconds >= LISTEN_SECONDS:
                self._gave_up(f"connecting took longer than {LISTEN_SECONDS:g} s")
        except WerkError as error:
            self._gave_up(error)

    def _gave_up(self, reason: object) -> None:
        # Of those who tried at the same time, one says so.
        if self._listening.promising(monotonic()):
            logger.warning("cannot listen for finished jobs, polling instead: %s", reason)
        self._listening.failed(monotonic())

    def _listens_or_cannot(self) -> bool:
        # One look at a time is enough when the lock has to be waited for.
        return self._listener.connected or self._closed or not self._listening.promising(monotonic())

    def _linger(self) -> None:
        """Close the connection some time after the last one has left."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if not self._waits and self._listener.connected:
            self._closing = asyncio.get_running_loop().call_later(LINGER, self._listener.close)

    def close(self) -> None:
        """Listen no more."""
        self._closed = True
        if self._closing is not None:
            self._closing.cancel()
        self._listener.close()
        self._waits.wake_all()

    def abandon(self) -> None:
        """Close the connection of a loop that is closed, or that goes on without us."""
        self._listener.abandon()
