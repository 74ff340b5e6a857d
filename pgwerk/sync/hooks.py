"""Hooks of the app in a thread: those that are coroutine functions run on a loop of their own."""

import asyncio
import inspect
from typing import Any

from pgwerk.errors import WerkError


def finish(value: Any) -> Any:
    """Run what a hook returned to its end if it is a coroutine, else return it."""
    if not inspect.iscoroutine(value):
        return value
    try:
        _ = asyncio.get_running_loop()
    except RuntimeError:
        with asyncio.Runner() as runner:
            return runner.run(value)
    value.close()
    raise WerkError(
        f"the hook {value.__qualname__} is a coroutine function, and this thread runs an event loop, where the "
        "synchronous app cannot await it: use `app.aio` there"
    )
