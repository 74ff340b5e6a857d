"""Who a worker is."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Identity:
    """What a worker's row says about it."""

    id: str
    name: str
    queues: tuple[str, ...]
    metadata: dict[str, Any]
