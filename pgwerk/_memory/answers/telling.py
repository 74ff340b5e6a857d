"""Notifications that several answers send."""

from collections.abc import Iterable
from datetime import datetime

from pgwerk._core.notifications import Due, Queued, make, make_done
from pgwerk._memory.messages import DONE, WAKE
from pgwerk._memory.rows import Row
from pgwerk._memory.store import Store


def tell_queued(store: Store, rows: Iterable[Row], *, always: bool = False) -> None:
    """Tell idle workers of queues that have got jobs; with *always* whoever listens."""
    if always or store.tables.idle:
        for queue in sorted({row["queue"] for row in rows}):
            store.tell(WAKE, make(Queued(queue)))


def tell_due(store: Store, due: datetime, since: datetime) -> None:
    """Tell workers in how many seconds, counted from *since*, a job is due."""
    store.tell(WAKE, make(Due((due - since).total_seconds())))


def tell_ended(store: Store, rows: Iterable[Row]) -> None:
    """Tell those who wait for these jobs that they have ended."""
    awaited = [row["id"] for row in rows if row["awaited"]]
    if awaited:
        store.tell(DONE, make_done(awaited))
