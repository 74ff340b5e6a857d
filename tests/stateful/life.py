"""What becomes of jobs, in plain Python: small enough to be right by reading it."""

from dataclasses import dataclass, field

from pgwerk._core.lifecycle import MAX_LOST

ENDED = ("complete", "failed", "aborted")
UNSTARTED = ("queued", "scheduled", "waiting")
RUNNING = ("active", "aborting")
LIMITS = {"one": 1, "two": 2}
"""The groups, and how many of their members may run."""


@dataclass
class Row:
    """One job."""

    id: str
    priority: int
    key: str | None
    group: str | None
    budget: int
    later: bool
    """Its own time is in the future."""
    ttl: bool
    delete: bool
    """Its row goes when it fails."""
    edges: dict[str, bool]
    """What it still waits for, and whether that may fail."""
    status: str = "queued"
    attempts: int = 0
    first: int = 0
    """The attempts it has each time; 0 until it was requeued."""
    lost: int = 0
    watched: bool = False
    free: int = 0
    """Records of attempts that were not charged."""
    recorded: int = 0
    blocked: bool = False
    expires: bool = False
    overdue: bool = False
    claim: int | None = None
    worker: str | None = None


@dataclass
class Model:
    """All jobs, in the order they were made."""

    rows: dict[str, Row] = field(default_factory=dict)
    place: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """In which order jobs are taken; times are Postgres's business."""

    def some(self, *statuses: str) -> list[Row]:
        """The jobs in these statuses."""
        return [row for row in self.rows.values() if row.status in statuses]

    def expirable(self) -> list[Row]:
        """The jobs whose ttl may run out."""
        return [row for row in self.some(*UNSTARTED) if row.expires and not row.overdue]

    def running(self, group: str) -> int:
        """How many permits of a group are taken."""
        return sum(row.group == group for row in self.some(*RUNNING))

    def _in_order(self, rows: list[Row]) -> list[Row]:
        return sorted(rows, key=lambda row: self.place[row.id])

    # Beginning ----------------------------------------------------------------------

    def enqueue(self, row: Row) -> bool:
        """False: its key exists."""
        if row.key is not None and any(other.key == row.key for other in self.rows.values()):
            return False
        self.rows[row.id] = row
        row.status = "waiting" if row.edges else self._first_status(row)
        row.expires = row.ttl and not row.edges
        self._judge(row)
        return True

    @staticmethod
    def _first_status(row: Row) -> str:
        return "scheduled" if row.later else "queued"

    def due(self, row: Row) -> None:
        """Its time has come, and somebody looked."""
        row.later = False
        row.status = "queued"

    def claim(self, count: int, worker: str) -> tuple[list[Row], list[Row]]:
        """The next *count* jobs: those that start, and those without a permit."""
        able = [row for row in self.some("queued") if not row.blocked and not row.overdue]
        taken: list[Row] = []
        denied: list[Row] = []
        for row in self._in_order(able)[:count]:
            if row.group is not None and self.running(row.group) >= LIMITS[row.group]:
                row.blocked = True
                denied.append(row)
                continue
            row.status, row.worker = "active", worker
            row.attempts += 1
            row.expires = False
            taken.append(row)
        return taken, denied

    def ready(self, group: str | None) -> None:
        """As many blocked members compete again as there are free permits; not those that nobody can claim."""
        if group is None:
            return
        free = LIMITS[group] - self.running(group)
        blocked = [row for row in self.rows.values() if row.group == group and row.blocked and not row.overdue]
        for row in self._in_order(blocked)[: max(free, 0)]:
            row.blocked = False

    # Ending -------------------------------------------------------------------------

    def report(self, row: Row, outcome: str) -> None:
        """Whoever runs it says what happened."""
        if row.status == "aborting":
            outcome = "aborted"
        row.claim, row.worker = None, None
        if outcome in ("died", "overdue") and row.watched:
            # Its beginning would be written down.
            outcome = "given back"
        if outcome == "given back":
            row.expires = row.ttl and row.attempts == 1 and not row.watched
            row.attempts -= 1
            row.status = "queued"
            self.ready(row.group)
            return
        row.recorded += 1
        row.lost += outcome == "lost"
        row.watched |= outcome in ("died", "lost")
        if outcome == "died" or (outcome == "lost" and row.lost <= MAX_LOST):
            row.free += 1
            row.attempts -= 1
            row.status = "queued"
            self.ready(row.group)
            return
        if outcome in ("failed", "overdue") and row.attempts < row.budget:
            row.status = "queued"
            self.ready(row.group)
            return
        row.status = {"succeeded": "complete", "aborted": "aborted"}.get(outcome, "failed")
        self.ready(row.group)
        self._ended(row)

    def stop(self, row: Row, status: str) -> None:
        """It ends before it started."""
        was, row.status = row.status, status
        row.blocked = row.expires = row.overdue = False
        if was == "queued":
            self.ready(row.group)
        self._ended(row)

    def _ended(self, row: Row) -> None:
        for child in self._children(row):
            self._judge(child)
        if row.status == "failed" and row.delete:
            _ = self.rows.pop(row.id, None)

    def _children(self, row: Row) -> list[Row]:
        return [child for child in self.some("waiting") if row.id in child.edges]

    def _judge(self, row: Row) -> None:
        if row.status != "waiting":
            return
        hopeless = False
        for parent, may_fail in list(row.edges.items()):
            status = self.rows[parent].status if parent in self.rows else "failed"
            if status == "complete" or (may_fail and status in ENDED):
                del row.edges[parent]
            elif status in ENDED:
                hopeless = True
        if hopeless:
            self.stop(row, "failed")
        elif not row.edges:
            row.status = self._first_status(row)
            row.expires = row.ttl

    def delete(self, row: Row) -> None:
        """Somebody deletes it, in whatever state."""
        del self.rows[row.id]
        if row.status in (*RUNNING, "queued"):
            self.ready(row.group)
        for child in self._children(row):
            self._judge(child)

    def requeue(self, row: Row) -> None:
        """Somebody gives it another chance."""
        row.status = "queued"
        row.first = row.first or row.budget
        row.budget = row.first + row.attempts
        row.lost = 0
        row.expires = row.ttl
        row.edges = {}
        row.later = False
