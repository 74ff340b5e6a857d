"""Operations that wait for the locks of others for a short time only, also where a session keeps no settings."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pgwerk._core.operation import Operation, R, Request, Statement, Steps, around, nothing


def bounded(op: Operation[R], seconds: float) -> Operation[R]:
    """Make *op* fail when it has to wait for a lock for longer than *seconds*."""
    return around(op, partial(_bounded, seconds))


def _bounded(seconds: float, op: Operation[R]) -> Steps[R]:
    steps = iter(op)
    act: Callable[[], Request] = partial(next, steps)
    first = True
    while True:
        try:
            request = act()
        except StopIteration as stop:
            result: R = stop.value
            return result
        # Together with what is asked: one round trip, and the same transaction.
        alone = not first and op.atomic
        try:
            replies = yield request if alone else (_lock_timeout(seconds), *request)
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
