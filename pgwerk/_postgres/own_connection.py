"""A psycopg connection with a deadline on each answer, whatever the network and the server do."""

import contextlib
import select
import time
from typing import Any, NoReturn

from psycopg import Connection
from psycopg.abc import RV, PQGen

from pgwerk._postgres.connecting import unanswered
from pgwerk._postgres.prepared import PreparedStatements

CANCEL_SECONDS = 1.0
"""Seconds that Postgres may take to hear that nobody waits for an answer any more."""

_GLANCE_MS = 100
_EVENTS = {1: select.POLLIN, 2: select.POLLOUT, 3: select.POLLIN | select.POLLOUT}


class OwnConnection(Connection[Any]):
    """A connection of ours, whose answers may have a deadline."""

    patience: float | None = None
    """Seconds that an answer may take; None means no limit."""
    pooled = False
    """Whether a pooler is between us and Postgres."""
    cancels = True
    """Whether Postgres is told that nobody waits for an answer any more; not where it, too, may be out of reach."""
    torn = False
    """Whether a pipeline failed: psycopg may believe in prepared statements that Postgres never got."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.prepared = PreparedStatements()

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Wait for what *gen* asks for; raises Unanswered when that takes too long."""
        if self.patience is None or args or kwargs:
            return super().wait(gen, *args, **kwargs)
        return self._wait_until(gen, time.monotonic() + self.patience)

    def _wait_until(self, gen: PQGen[RV], until: float) -> RV:
        try:
            wanted = next(gen)
            poll = select.poll()
            while True:
                poll.register(self.fileno(), _EVENTS[int(wanted)])
                # In steps, so that an interruption of this thread arrives.
                happened = poll.poll(min(_GLANCE_MS, max(1, int((until - time.monotonic()) * 1000))))
                if happened:
                    event = happened[0][1]
                    ready = (1 if event & ~select.POLLOUT else 0) | (2 if event & select.POLLOUT else 0)
                    wanted = gen.send(ready)
                elif time.monotonic() >= until:
                    self._give_up()
        except StopIteration as stop:
            value: RV = stop.value
            return value
        except BaseException:
            # Not by the garbage collector, which would show the world what psycopg meets when it clears up.
            with contextlib.suppress(Exception):
                gen.close()
            raise

    def _give_up(self) -> NoReturn:
        with contextlib.suppress(Exception):
            if self.cancels and not self.pooled:
                # A pooler ends what its client waits for when the connection is closed; Postgres does not.
                self.cancel_safe(timeout=CANCEL_SECONDS)
        self.close()
        raise unanswered(self.patience or 0.0, self.pooled)
