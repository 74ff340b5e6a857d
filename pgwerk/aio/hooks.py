"""Hooks of the app on an event loop: those that are coroutine functions are awaited."""

import inspect
from typing import Any


async def finish(value: Any) -> Any:
    """Await *value* if that is possible, else return it."""
    return await value if inspect.isawaitable(value) else value
