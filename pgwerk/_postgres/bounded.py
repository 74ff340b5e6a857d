"""Operations that wait for the locks of others for a short time only, also where a session keeps no settings."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

from pgwerk._core.operation import Operation, R, Request, Rows, Statement, nothing


@dataclass(frozen=True, slots=True)
class _Bounded(Generic[R]):
    op: Operation[R]
    seconds: float

    @property
    def atomic(self) -> bool:
        return self.op.atomic

    @property
    def repeatable(self) -> bool:
        return self.op.repeatable

    def __iter__(self) -> Generator[Request, Sequence[Rows], R]:
        steps = iter(self.op)
        act: Callable[[], Request] = partial(next, steps)
        first = True
        while True:
            try:
                request = act()
            except StopIteration as stop:
                result: R = stop.value
                return result
            # Together with what is asked: one round trip, and the same transaction.
            alone = not first and self.op.atomic
            try:
                replies = yield request if alone else (_lock_timeout(self.seconds), *request)
            except Exception as error:  # noqa: BLE001  # the operation decides
                act = partial(steps.throw, error)
            else:
                act = partial(steps.send, replies if alone else replies[1:])
            first = False


def _lock_timeout(seconds: float) -> Statement[Any]:
    return Statement(
        "select set_config('lock_timeout', %(ms)s, true)",
        {"ms": str(max(1, round(seconds * 1000)))},
        nothing,
        repeatable=True,
    )


def bounded(op: Operation[R], seconds: float) -> Operation[R]:
    """Make *op* fail when it has to wait for a lock for more than so many seconds."""
    return _Bounded(op, seconds)
