"""What is stored besides jobs; every change can be taken back."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")
Undoing = Callable[[Callable[[], None]], None]
"""Takes what is to be called when the transaction fails."""


class Table(dict[K, V]):
    """Rows by their key, changed with `put` and `drop` only."""

    def __init__(self, undoing: Undoing) -> None:
        super().__init__()
        self._undoing = undoing

    def put(self, key: K, value: V) -> None:
        """Insert or replace a row."""
        if key in self:
            before = self[key]
            self._undoing(lambda: self.__setitem__(key, before))
        else:
            self._undoing(lambda: self.__delitem__(key))
        self[key] = value

    def drop(self, key: K) -> bool:
        """Delete a row; False without one."""
        if key not in self:
            return False
        before = self[key]
        self._undoing(lambda: self.__setitem__(key, before))
        del self[key]
        return True


class StoredClaim(NamedTuple):
    """A claimed batch."""

    worker: str
    job_ids: tuple[str, ...]
    at: datetime


class StoredExecution(NamedTuple):
    """A recorded attempt; the result is the text that was stored."""

    number: int
    attempt: int
    status: str
    worker_id: str | None
    started_at: datetime | None
    completed_at: datetime | None
    error: str | None
    result: str | None


class Pause(NamedTuple):
    """Since when a queue is paused (None: not any more), and why."""

    since: datetime | None
    reason: str | None


class Edge(NamedTuple):
    """That a job waits for another one."""

    allow_failure: bool
    satisfied: bool


class Edges:
    """Who depends on whom."""

    def __init__(self, undoing: Undoing) -> None:
        self._undoing = undoing
        self._by_job: dict[str, dict[str, Edge]] = defaultdict(dict)
        self._by_parent: dict[str, set[str]] = defaultdict(set)

    def of(self, job: str) -> dict[str, Edge]:
        """What a job depends on."""
        return self._by_job.get(job, {})

    def jobs(self) -> list[str]:
        """Those that depend on something."""
        return sorted(job for job, parents in self._by_job.items() if parents)

    def dependents(self, parent: str) -> list[str]:
        """The jobs that wait for one, by id."""
        return sorted(job for job in self._by_parent.get(parent, ()) if not self._by_job[job][parent].satisfied)

    def put(self, job: str, parent: str, edge: Edge) -> None:
        """Insert or replace an edge."""
        before = self._by_job[job].get(parent)
        self._put(job, parent, edge)
        self._undoing(lambda: self._put(job, parent, before) if before is not None else self._drop(job, parent))

    def drop(self, job: str) -> None:
        """Delete all edges of a job to those it depends on."""
        for parent, edge in list(self.of(job).items()):
            self._drop(job, parent)
            self._undoing(lambda parent=parent, edge=edge: self._put(job, parent, edge))  # type: ignore[misc]

    def _put(self, job: str, parent: str, edge: Edge) -> None:
        self._by_job[job][parent] = edge
        self._by_parent[parent].add(job)

    def _drop(self, job: str, parent: str) -> None:
        del self._by_job[job][parent]
        self._by_parent[parent].discard(job)


class Permits:
    """Which job holds which slot of which group."""

    def __init__(self, undoing: Undoing) -> None:
        self._rows: Table[tuple[str, int], str] = Table(undoing)
        self._by_key: dict[str, set[int]] = defaultdict(set)
        self._undoing = undoing

    def taken(self, key: str) -> set[int]:
        """The slots of a group that are taken."""
        return {slot for slot in self._by_key.get(key, ()) if (key, slot) in self._rows}

    def holders(self) -> list[tuple[str, int, str]]:
        """All permits: key, slot, job."""
        return [(key, slot, job) for (key, slot), job in sorted(self._rows.items())]

    def grant(self, key: str, slot: int, job: str) -> None:
        """Give a free slot to a job."""
        self._rows.put((key, slot), job)
        self._by_key[key].add(slot)

    def release(self, key: str, job: str) -> int:
        """Take the slots of a job back; how many."""
        mine = [slot for slot in self.taken(key) if self._rows[(key, slot)] == job]
        for slot in mine:
            self.drop(key, slot)
        return len(mine)

    def drop(self, key: str, slot: int) -> None:
        """Take a slot back."""
        _ = self._rows.drop((key, slot))


@dataclass
class Tables:
    """All of them."""

    claims: Table[int, StoredClaim]
    executions: Table[str, tuple[StoredExecution, ...]]
    """By job."""
    edges: Edges
    permits: Permits
    workers: Table[str, dict[str, Any]]
    """Rows that are replaced, never changed; the metadata is JSON text."""
    idle: Table[str, None]
    queues: Table[str, Pause]


def new_tables(undoing: Undoing) -> Tables:
    """Make empty tables."""
    return Tables(
        Table(undoing), Table(undoing), Edges(undoing), Permits(undoing), Table(undoing), Table(undoing),
        Table(undoing),
    )  # fmt: skip
