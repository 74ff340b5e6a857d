"""One run of the demo: its jobs, how far they are, what came out."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import sql

from pgwerk import EnqueueParams, Job, Retry, Werk
from pgwerk.demo.jobs import BESIDE, CREATE, LIBRARY, NOT_OURS, PACKAGES, checked_path, index_file
from pgwerk.sync.postgres import connection_string

QUEUE = "demo"
RETRY = Retry(2, intervals=0.5)
"""A file does not get better by waiting, but retries should be seen."""
KEEP_SECONDS = 86_400.0
"""How long the jobs stay for `werk jobs`; a worker's sweep deletes them after that."""


@dataclass(frozen=True)
class Counts:
    """How many jobs of a batch are in which status."""

    by_status: dict[str, int] = field(default_factory=dict)

    def of(self, *statuses: str) -> int:
        """All in these statuses."""
        return sum(self.by_status.get(name, 0) for name in statuses)

    @property
    def ended(self) -> int:
        """Those that will not run again."""
        return self.of("complete", "failed", "aborted")


class TopFile(NamedTuple):
    """A file, and how much it defines."""

    file: str
    functions: int
    classes: int


ENOUGH = 1000
"""With fewer files in the standard library (Debian ships it without Python's own tests), packages are read, too."""


def python_files(limit: int | None = None) -> list[str]:
    """The Python files of the standard library, as the jobs take them; with *limit* only the smallest."""
    files = _below(LIBRARY, "")
    if len(files) < ENOUGH:
        files |= _below(PACKAGES, f"{BESIDE}/")
    names = sorted(files, key=lambda name: (files[name], name))[:limit]
    return sorted(names)


def _below(root: Path, prefix: str) -> dict[str, int]:
    """The files that jobs would accept below a directory, with their sizes."""
    found: dict[str, int] = {}
    for path in root.rglob("*.py"):
        name = prefix + path.relative_to(root).as_posix()
        if not prefix and name.partition("/")[0] in NOT_OURS:
            continue
        try:
            # A link may lead elsewhere, such as Debian's sitecustomize.py.
            real = checked_path(name)
        except ValueError:
            continue
        if real.is_file():
            found[name] = real.stat().st_size
    return found


class Batch:
    """The jobs of one run, in one installation."""

    def __init__(self, app: Werk, *, keep: bool = False) -> None:
        self.app = app
        self.id = uuid.uuid4().hex[:8]
        self.total = 0
        self._keep_seconds = None if keep else KEEP_SECONDS
        self._span: tuple[str, str] | None = None
        self._connection: psycopg.Connection[Any] | None = None

    def prepare(self) -> None:
        """Create the queue's tables and the application's own, and forget earlier results."""
        self.app.connect()
        self._db.execute("set client_min_messages = warning")
        self._db.execute(CREATE)
        self._db.execute("delete from pgwerk_demo.demo_definitions")

    def left_over(self) -> int:
        """How many jobs of earlier runs have not ended."""
        open_ = ("scheduled", "queued", "active")
        stats = [one for one in self.app.get_queue_stats() if one.queue == QUEUE]
        return sum(one.counts.get(name, 0) for one in stats for name in open_)

    def enqueue(self, files: Sequence[str]) -> None:
        """Enqueue one job for each file, all or none."""
        jobs = self.app.enqueue_many(
            EnqueueParams(
                index_file, args=[file], queue=QUEUE, retry=RETRY, meta={"batch": self.id},
                result_ttl=self._keep_seconds, failure_ttl=self._keep_seconds,
            )
            for file in files
        )  # fmt: skip
        ids = sorted(job.id for job in jobs if job is not None)
        self.total = len(ids)
        self._span = (ids[0], ids[-1]) if ids else None

    def counts(self) -> Counts:
        """Count the jobs by status; reads their rows only, by the range of their ids."""
        rows = self._query("select j.status, count(*) from {jobs} group by j.status")
        return Counts({row[0]: row[1] for row in rows})

    def retried(self) -> int:
        """How many jobs took more than one attempt."""
        return int(self._query("select count(*) from {jobs} and j.attempts > 1")[0][0])

    def failed(self) -> list[Job]:
        """The jobs that failed for good."""
        found = self.app.list_jobs(queue=QUEUE, status="failed", search=self.id, limit=1000)
        return [job for job in reversed(found) if (job.meta or {}).get("batch") == self.id]

    def top_files(self, limit: int = 10) -> list[TopFile]:
        """The files that define most."""
        rows = self._db.execute(
            "select file, count(*) filter (where kind = 'function'), count(*) filter (where kind = 'class')"
            " from pgwerk_demo.demo_definitions group by file order by count(*) desc, file limit %s",
            [limit],
        )
        return [TopFile(*row) for row in rows]

    def totals(self) -> tuple[int, int]:
        """How many functions and classes were found."""
        row = self._db.execute(
            "select count(*) filter (where kind = 'function'), count(*) filter (where kind = 'class')"
            " from pgwerk_demo.demo_definitions"
        ).fetchone()
        return (row[0], row[1]) if row is not None else (0, 0)

    def close(self) -> None:
        """Close the connections; what is queued stays."""
        if self._connection is not None:
            self._connection.close()
        self.app.close()

    @property
    def conninfo(self) -> str:
        """How to connect to the database of the demo."""
        return connection_string(self.app)

    @property
    def _db(self) -> "psycopg.Connection[Any]":
        if self._connection is None:
            self._connection = psycopg.connect(self.conninfo, autocommit=True)
        return self._connection

    def _query(self, text: LiteralString) -> list[tuple[Any, ...]]:
        """Run *text*, where {jobs} stands for the jobs of this batch."""
        # Ids are made in order (UUIDv7), so a range of them is this batch, and perhaps a neighbour's jobs.
        which = "{table} j where j.id between {first} and {last} and j.meta->>'batch' = {id}"
        first, last = self._span or (str(uuid.UUID(int=0)),) * 2
        config = self.app.config
        own = (config.schema, f"{config.prefix}_jobs") if config.schema else (f"{config.prefix}_jobs",)
        jobs = sql.SQL(which).format(table=sql.Identifier(*own), first=first, last=last, id=self.id)
        return self._db.execute(sql.SQL(text).format(jobs=jobs)).fetchall()
