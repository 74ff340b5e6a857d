"""The one lock of a store, which knows to which process the store belongs."""

import os
import threading

from pgwerk.errors import ConfigError


class Guard:
    """A lock that its holder may take again; a forked child is refused instead of hanging or seeing old rows."""

    __slots__ = ("_lock", "_pid")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def __enter__(self) -> None:
        # First: what another thread of the parent held at the fork nobody would release here.
        if os.getpid() != self._pid:
            raise ConfigError(
                f"an in-memory store cannot be used in another process: this one belongs to process {self._pid}, and "
                f"process {os.getpid()} was forked from it. Make an app of its own here, or use Postgres "
                '(Werk("postgresql://...")), which all processes share.'
            )
        _ = self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        self._lock.release()
