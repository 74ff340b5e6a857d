"""Notifications within a process: what LISTEN and NOTIFY are in Postgres."""

import contextlib
import os
import select
from collections import defaultdict, deque
from collections.abc import Callable, Iterable

from pgwerk._memory.guard import Guard

WAKE, DONE = "wake", "done"
"""The channels: what workers listen to, and those who wait for ends."""

Hear = Callable[[str, str], None]
"""Takes a channel and a payload, in the thread of whoever told; must neither wait nor raise."""


class Messages:
    """Who listens to which channel."""

    def __init__(self, guard: Guard | None = None) -> None:
        self.guard = guard or Guard()
        self._listeners: dict[str, list[Hear]] = defaultdict(list)

    def listen(self, channel: str, hear: Hear) -> None:
        """Call *hear* with all that is told on a channel from here on."""
        with self.guard:
            self._listeners[channel].append(hear)

    def stop(self, channel: str, hear: Hear) -> None:
        """Take back `listen`."""
        with self.guard:
            if hear in self._listeners[channel]:
                self._listeners[channel].remove(hear)

    def deliver(self, messages: Iterable[tuple[str, str]]) -> None:
        """Hand messages to whoever listens now, in the order in which they were told."""
        with self.guard:
            for channel, payload in messages:
                for hear in tuple(self._listeners.get(channel, ())):
                    hear(channel, payload)


class Listener:
    """Hear what is told on some channels; can be waited for with select. Not for use by two threads at once."""

    deaf = False

    def __init__(self, messages: Messages, channels: Iterable[str]) -> None:
        self._messages = messages
        self._channels = tuple(channels)
        self._heard: deque[tuple[str, str]] = deque()
        self._read = self._write = -1

    def connect(self) -> None:
        """Begin to listen; what was told before is not heard."""
        self.close()
        with self._messages.guard:
            self._read, self._write = os.pipe()
            for end in (self._read, self._write):
                os.set_blocking(end, False)
            for channel in self._channels:
                self._messages.listen(channel, self._hear)

    def fileno(self) -> int:
        """What to select on: readable when something was told; -1 while it does not listen."""
        return self._read

    def drain(self) -> list[tuple[str, str]]:
        """Return what has been heard (channel, payload) without waiting."""
        with self._messages.guard:
            if self._read >= 0:
                with contextlib.suppress(BlockingIOError):
                    _ = os.read(self._read, 16)
            heard = list(self._heard)
            self._heard.clear()
            return heard

    def wait(self, seconds: float) -> list[tuple[str, str]]:
        """Wait up to *seconds* for something to be heard; nothing at once while it does not listen."""
        heard = self.drain()
        if not heard and self._read >= 0 and seconds > 0:
            poll = select.poll()
            poll.register(self._read, select.POLLIN)
            _ = poll.poll(seconds * 1000)
            heard = self.drain()
        return heard

    def close(self) -> None:
        """Listen no more."""
        with self._messages.guard:
            for channel in self._channels:
                self._messages.stop(channel, self._hear)
            ends, self._read, self._write = (self._read, self._write), -1, -1
            self._heard.clear()
            for end in ends:
                if end >= 0:
                    os.close(end)

    def _hear(self, channel: str, payload: str) -> None:
        # One byte is there as long as anything is.
        if not self._heard:
            _ = os.write(self._write, b"!")
        self._heard.append((channel, payload))
