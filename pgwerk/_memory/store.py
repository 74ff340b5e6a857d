"""The rows of one in-memory installation, with the indexes that the answers need, and transactions."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from pgwerk._core.cursor import Place
from pgwerk._core.notifications import Due, make
from pgwerk._memory.clock import Clock
from pgwerk._memory.guard import Guard
from pgwerk._memory.messages import WAKE, Listener, Messages
from pgwerk._memory.rows import Row, lane, new_row, place
from pgwerk._memory.tables import new_tables
from pgwerk._memory.values import UNIQUE_VIOLATION, later, refused, stored, uuid
from pgwerk.errors import DatabaseError

_NONE = timedelta()
_MOMENT = timedelta(microseconds=1)
_BACKWARD = timedelta(seconds=1)
"""Who sets the clock back by more than this wants it to be earlier."""


class Transaction:
    """A block that is atomic: an error takes back all that was changed in it, and nothing is told. May be nested."""

    __slots__ = ("_mark", "_store", "_told")

    def __init__(self, store: "Store") -> None:
        self._store = store

    def __enter__(self) -> None:
        self._mark, self._told = self._store.begin()

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        self._store.end(self._mark, self._told, failed=kind is not None)


class Store:
    """The rows. Used under `transaction` only, by one thread at a time."""

    def __init__(self) -> None:
        self._guard = Guard()
        self.messages = Messages(self._guard)
        self.clock = Clock(self._guard, self._clock_moved)
        self._depth = 0
        self._undo: list[Callable[[], None]] = []
        self._told: dict[tuple[str, str], None] = {}
        self._numbers = 0
        self._last = self._began = self.since = self.clock.now()
        """`since`: from when on this store could be asked, as Postgres since it was started."""
        self._empty()

    def _empty(self) -> None:
        self.jobs: dict[str, Row] = {}
        self.tables = new_tables(self.undoing)
        self._by_key: dict[str, str] = {}
        self._queues: dict[str, list[Place]] = defaultdict(list)
        """By queue: the places of jobs that can be claimed, in order."""
        self._lanes: dict[str, set[str]] = defaultdict(set)
        self._blocked: dict[str, set[str]] = defaultdict(set)
        """By group."""
        self._expiring: set[str] = set()
        self._callbacks: dict[str, set[str]] = defaultdict(set)
        """By the job that they are called about."""

    # Transactions -----------------------------------------------------------------

    def transaction(self) -> Transaction:
        """Make a block atomic."""
        return Transaction(self)

    def begin(self) -> tuple[int, int]:
        """Open a transaction, or a part of one; what it returns is for `end`."""
        self._guard.__enter__()
        try:
            if not self._depth:
                self._began = self._tick(_NONE)
            marks = len(self._undo), len(self._told)
            self._depth += 1
        except BaseException:
            self._guard.__exit__()
            raise
        return marks

    def end(self, mark: int, told: int, *, failed: bool) -> None:
        """Close what `begin` opened."""
        try:
            if failed:
                while len(self._undo) > mark:
                    self._undo.pop()()
                while len(self._told) > told:
                    _ = self._told.popitem()
            self._depth -= 1
            if not self._depth:
                self._undo.clear()
                if self._told:
                    messages, self._told = self._told, {}
                    self.messages.deliver(messages)
        finally:
            self._guard.__exit__()

    @property
    def now(self) -> datetime:
        """When the transaction began."""
        return self._began

    def instant(self) -> datetime:
        """The time at this moment: later than `now`, and than every moment before, even while the clock stands."""
        return self._tick(_MOMENT)

    def latest(self) -> datetime:
        """The time at this moment, which is not before any that was written."""
        return self._tick(_NONE)

    def _tick(self, least: timedelta) -> datetime:
        time = self.clock.now()
        if time < self._last - _BACKWARD:
            self._last = time
        self._last = max(time, self._last + least)
        if self._last > time:
            self.clock.keep_up(self._last)
        return self._last

    def after(self, seconds: float | None, since: datetime | None = None) -> datetime | None:
        """The time *seconds* after *since* (now); None for None."""
        return None if seconds is None else later(since or self._began, seconds)

    def before(self, seconds: float) -> datetime:
        """The time *seconds* before now."""
        return later(self._began, -seconds)

    def next_number(self) -> int:
        """A number that was never given before; not taken back by an error, as a sequence's are not."""
        self._numbers += 1
        return self._numbers

    def tell(self, channel: str, payload: str) -> None:
        """Notify once this transaction is over; the same message only once."""
        self._told[(channel, payload)] = None

    def listener(self, *channels: str) -> Listener:
        """Make a listener, which hears these channels once it is connected."""
        return Listener(self.messages, channels)

    def undoing(self, undo: Callable[[], None]) -> None:
        """Call *undo* when this transaction fails."""
        self._undo.append(undo)

    def _clock_moved(self) -> None:
        # What was due in an hour may be due now.
        self.messages.deliver([(WAKE, make(Due(0.0)))])

    def clear(self) -> None:
        """Forget all rows."""
        # Each of them by name: what is taken back must be these very objects.
        kept = {name: value for name, value in vars(self).items() if name in _EMPTIED}
        self._empty()
        self.undoing(lambda: vars(self).update(kept))

    # Jobs -------------------------------------------------------------------------

    def insert(self, values: Row, now: datetime, *, strict: bool = False) -> Row | None:
        """Insert a job at a time; None when its id or its key exists, which is an error when it is *strict*."""
        row = new_row(values, now)
        if row["id"] in self.jobs or row["key"] in self._by_key:
            if strict:
                raise DatabaseError(f"the store refused a row: the key {row['key']!r} exists", UNIQUE_VIOLATION)
            return None
        self._put(row)
        self.undoing(lambda: self._take(row["id"]))
        return row

    def change(self, id_: str, **columns: Any) -> Row:
        """Change columns of a job; its new row."""
        before = self.jobs[id_]
        row = {**before, **stored(columns)}
        if row["blocked"] and row["group_key"] is None:
            raise refused("only a member of a group can be blocked")
        self._take(id_)
        self._put(row)

        def undo() -> None:
            self._take(id_)
            self._put(before)

        self.undoing(undo)
        return row

    def remove(self, id_: str) -> Row | None:
        """Delete a job's row; None without one."""
        row = self.jobs.get(id_)
        if row is not None:
            self._take(id_)
            self.undoing(lambda: self._put(row))
        return row

    def _put(self, row: Row) -> None:
        id_ = row["id"]
        self.jobs[id_] = row
        if row["key"] is not None:
            self._by_key[row["key"]] = id_
        where = lane(row)
        self._lanes[where].add(id_)
        if where == "blocked":
            self._blocked[row["group_key"]].add(id_)
        if where == "ready" and row["status"] == "queued":
            insort(self._queues[row["queue"]], place(row))
        if row["expires_at"] is not None:
            self._expiring.add(id_)
        if row["callback_of"] is not None:
            self._callbacks[row["callback_of"]].add(id_)

    def _take(self, id_: str) -> None:
        row = self.jobs.pop(id_)
        if row["key"] is not None:
            del self._by_key[row["key"]]
        where = lane(row)
        self._lanes[where].discard(id_)
        if where == "blocked":
            self._blocked[row["group_key"]].discard(id_)
        if where == "ready" and row["status"] == "queued":
            places = self._queues[row["queue"]]
            del places[bisect_left(places, place(row))]
        self._expiring.discard(id_)
        if row["callback_of"] is not None:
            self._callbacks[row["callback_of"]].discard(id_)

    # Finding jobs -----------------------------------------------------------------

    def find(self, id_: str) -> Row | None:
        """The row of an id; raises SerializationError for what is none."""
        row = self.jobs.get(id_)
        return row if row is not None else self.jobs.get(uuid(id_))

    def by_key(self, key: str) -> Row | None:
        """The job with a key."""
        id_ = self._by_key.get(key)
        return self.jobs[id_] if id_ is not None else None

    def existing(self, ids: Iterable[str]) -> list[Row]:
        """The rows of those of these ids that exist, once each, by id."""
        found = {row["id"]: row for id_ in ids if (row := self.find(id_)) is not None}
        return [found[id_] for id_ in sorted(found)]

    def claimable(self, queue: str, first: Place | None) -> Iterator[Row]:
        """The queued jobs of a queue that are not blocked, in order, from *first* on."""
        places = self._queues.get(queue, [])
        for index in range(bisect_left(places, first) if first is not None else 0, len(places)):
            yield self.jobs[places[index][2]]

    def lane(self, name: str) -> list[Row]:
        """The rows of a lane, by id."""
        return [self.jobs[id_] for id_ in sorted(self._lanes[name])]

    def blocked(self, group: str) -> list[Row]:
        """The blocked members of a group, in the order in which they are claimed."""
        return sorted((self.jobs[id_] for id_ in self._blocked.get(group, ())), key=place)

    def blocked_groups(self) -> list[str]:
        """The groups with blocked members."""
        return sorted(group for group, ids in self._blocked.items() if ids)

    def expiring(self) -> list[Row]:
        """The rows that expire some time, the next ones first."""
        return sorted((self.jobs[id_] for id_ in self._expiring), key=lambda row: (row["expires_at"], row["id"]))

    def callbacks(self, id_: str) -> list[Row]:
        """The callback jobs about a job."""
        return [self.jobs[callback] for callback in sorted(self._callbacks.get(id_, ()))]

    def is_paused(self, queue: str) -> bool:
        """Whether nobody may claim from a queue."""
        pause = self.tables.queues.get(queue)
        return pause is not None and pause.since is not None

    def may_run(self, row: Row) -> bool:
        """Whether a queued job is due and has not expired."""
        expires: datetime | None = row["expires_at"]
        due: bool = row["scheduled_at"] <= self._began
        return due and (expires is None or expires > self._began)


_EMPTIED = ("jobs", "tables", "_by_key", "_queues", "_lanes", "_blocked", "_expiring", "_callbacks")
