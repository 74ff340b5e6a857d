"""The notifications between producers and workers: their payloads, and what is done about them.

The channels are named after the installation (`Names.wake_channel`, `Names.done_channel`).

| channel | payload | sent when | what the receiver does |
|---|---|---|---|
| wake | ``q<queue>`` | a queue got jobs that can run, or may run again | looks for jobs, if the queue is one of its own |
| wake | ``d<seconds>`` | a job was scheduled | is back by then to queue it |
| wake | ``a<worker id>`` | a running job was asked to abort | the worker looks which of its jobs |
| wake | ``w<id>,<id>…`` | dependents were written in a caller's transaction | releases those whose dependencies ended meanwhile |
| wake, done | ``p`` | a receiver tries whether notifications arrive through a pooler | nothing: that it arrived is the answer |
| done | ``<id>,<id>…`` | jobs that somebody waits for ended | whoever waits for one of them reads it |

Every notification may be lost, sent twice or come from somebody else: each only makes a receiver look, and polling
finds what it missed. SQL writes the same letters as literals; `tests/core/test_notifications.py` holds it to this.
"""  # noqa: E501  # a table

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pgwerk._core.ids import normal_id

QUEUED: Final = "q"
DUE: Final = "d"
ABORT: Final = "a"
WAITING: Final = "w"
PROBE: Final = "p"

KINDS = (QUEUED, DUE, ABORT, WAITING, PROBE)


@dataclass(frozen=True, slots=True)
class Queued:
    """A queue has got jobs."""

    queue: str


@dataclass(frozen=True, slots=True)
class Due:
    """A job is due in this many seconds, counted from when this was sent."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Abort:
    """A worker was asked to abort some of its jobs."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """These jobs may wait for dependencies that have ended."""

    ids: tuple[str, ...]


Wake = Queued | Due | Abort | Waiting


def make(message: Wake) -> str:
    """The payload of a notification for workers."""
    match message:
        case Queued(queue):
            return f"{QUEUED}{queue}"
        case Due(seconds):
            return f"{DUE}{seconds:.6f}"
        case Abort(worker_id):
            return f"{ABORT}{worker_id}"
        case Waiting(ids):
            return f"{WAITING}{make_done(ids)}"


def parse(payload: str) -> Wake | None:
    """Read the payload of a notification for workers; None for what is none, or says nothing."""
    kind, rest = payload[:1], payload[1:]
    if kind == QUEUED:
        return Queued(rest)
    if kind == DUE:
        seconds = _seconds(rest)
        return None if seconds is None else Due(seconds)
    if kind == ABORT:
        return Abort(rest)
    if kind == WAITING:
        ids = parse_ids(rest)
        return Waiting(ids) if ids else None
    return None


def make_done(ids: Iterable[str]) -> str:
    """The payload that says that these jobs ended."""
    return ",".join(ids)


def parse_done(payload: str) -> list[str]:
    """The jobs that ended, unchecked: they are only looked up among those that somebody waits for."""
    return payload.split(",")


def parse_ids(text: str) -> tuple[str, ...]:
    """The ids that a payload names; whatever else is in it came from somebody else."""
    return tuple(found for part in text.split(",") if (found := normal_id(part)) is not None)


def _seconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
