"""How long what is asked of Postgres may take, for all that is called inside a block; on a thread or task each."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("pgwerk_deadline", default=None)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Let what is asked of Postgres inside the block take no longer than this; None changes nothing."""
    if seconds is None:
        yield
        return
    token = _deadline.set(time.monotonic() + max(0.0, seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def unhurried() -> AbstractContextManager[None]:
    """Let statements inside the block take as long as they like, also behind a pooler."""
    return deadline(math.inf)


def remaining() -> float | None:
    """Seconds until the innermost deadline; None without one."""
    at = _deadline.get()
    return None if at is None else at - time.monotonic()
