"""Short words for the tests: put a job, claim it, end it, look at its row."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pgwerk._app.clock import new_id
from pgwerk._core.claim import Claim, Claimed
from pgwerk._core.enqueue_options import Defaults
from pgwerk._core.enqueueing import new_job
from pgwerk._core.lifecycle import Verdict, decide
from pgwerk._core.operations import settle as op
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.outcome import Failed, Outcome, Report, Succeeded
from pgwerk._core.payload import JSONSerializer
from pgwerk._core.procedures import sweep
from pgwerk._core.procedures.enqueue import enqueue_all
from pgwerk._core.statements import claims, running, workers
from pgwerk._core.statements.enqueue import Inserted
from tests.fixtures.run import Peer, Run

DEFAULTS = Defaults(JSONSerializer(), backoff=False)
WORKER = "00000000-0000-7000-8000-00000000000a"
OTHER = "00000000-0000-7000-8000-00000000000b"
LIVE = 25.0


def new(*args: Any, **options: Any) -> NewJob:
    """A new job, with options as `enqueue` takes them, without underscores."""
    return new_job("app.work", args, {}, options, DEFAULTS, new_id)


class Desk:
    """What a test does to the jobs of its schema."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.looking = run.looking

    def put(self, *args: Any, **options: Any) -> str:
        """Enqueue a job; its id."""
        wanted = new(*args, **options)
        assert self.send([wanted]) != [None]
        return wanted.id

    def send(
        self, new_jobs: Sequence[NewJob], *, joined: bool = False, connection: Any = None
    ) -> list[Inserted | None]:
        """Enqueue new_jobs; what the database answered."""
        return self.run.perform(enqueue_all(new_jobs, joined=joined), connection)

    def claim(
        self, count: int = 10, *queues: str, worker: str = WORKER, in_turns: bool = False, by: Run | Peer | None = None
    ) -> list[Claimed]:
        """Claim jobs."""
        return self.claimed(count, *queues, worker=worker, in_turns=in_turns, by=by).jobs

    def claimed(
        self, count: int = 10, *queues: str, worker: str = WORKER, in_turns: bool = False, by: Run | Peer | None = None
    ) -> Claim:
        """Claim jobs; the whole answer."""
        statement = claims.claim(queues or ("default",), count, worker, in_turns=in_turns)
        return (by or self.run)(statement) if not isinstance(by, Peer) else by.run(statement)

    def take(self, *args: Any, **options: Any) -> Claimed:
        """Enqueue one job and claim it."""
        job_id = self.put(*args, **options)
        (taken,) = self.claim(1, options.get("queue", "default"))
        assert taken.job.id == job_id
        return taken

    def end(self, taken: Claimed, outcome: Outcome | None = None, *, worker: str = WORKER) -> bool:
        """Settle a claimed job; whether it was still ours."""
        return taken.job.id in self.run(op.settle([report(taken, outcome)], worker))

    def close(self, taken: Claimed, outcome: Outcome | None = None, *, whole: bool = False) -> list[str]:
        """Close a claimed job with the one statement of the hot path."""
        return self.run(running.close([entry(taken, outcome)], WORKER, whole=whole))

    def live(self, worker: str = WORKER, *, seconds: float = LIVE) -> str:
        """Register a worker."""
        self.run(workers.register(worker, f"host.{worker[-1]}", ["default"], {}, seconds))
        return worker

    def die(self, worker: str = WORKER) -> None:
        """Let a worker's time be over."""
        self.sql("update {worker} set expires_at = now() - interval '1 second' where id = %s", worker)

    def perform_promote(self) -> int:
        """Queue what is due."""
        return self.run.perform(sweep.promote_due()).moved

    def sweep(self) -> sweep.Swept:
        """Do what the sweep does."""
        return self.run.perform(sweep.sweep(LIVE, 3600.0))

    # Looking ----------------------------------------------------------------------

    def sql(self, text: str, *params: Any) -> list[tuple[Any, ...]]:
        """Ask the tables of this schema from outside."""
        return self.looking.sql(text, *params)

    def one(self, text: str, *params: Any) -> Any:
        """The first column of the first row."""
        rows = self.sql(text, *params)
        return rows[0][0] if rows else None

    def row(self, job: str | Claimed) -> dict[str, Any]:
        """All columns of a job; empty when it is gone."""
        found = self.looking.rows("select * from {jobs} where id = %s", _id(job))
        return found[0] if found else {}

    def status(self, job: str | Claimed) -> str | None:
        """Its status; None when it is gone."""
        return self.row(job).get("status")

    def statuses(self, *jobs: str | Claimed) -> list[str | None]:
        """Their statuses."""
        return [self.status(job) for job in jobs]

    def executions(self, job: str | Claimed) -> list[tuple[int, str]]:
        """(attempt, status) of recorded attempts."""
        return self.sql("select attempt, status from {executions} where job_id = %s order by id", _id(job))

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(self.one(f"select count(*) from {{{table}}}"))

    def now(self) -> datetime:
        """The time of the tables."""
        found: datetime = self.one("select clock_timestamp()")
        return found

    def ago(self, job: str | Claimed, seconds: float, *columns: str) -> None:
        """Move times of a job into the past."""
        changes = ", ".join(f"{column} = {column} - %s * interval '1 second'" for column in columns)
        self.sql(f"update {{jobs}} set {changes} where id = %s", *[seconds] * len(columns), _id(job))


def _id(job: str | Claimed) -> str:
    return job if isinstance(job, str) else job.job.id


def ids(taken: Sequence[Claimed]) -> list[str]:
    """The ids of claimed jobs, in order."""
    return [one.job.id for one in taken]


def report(taken: Claimed, outcome: Outcome | None = None) -> Report:
    """A report about a claimed job; success unless told otherwise."""
    return Report(taken.job.id, taken.claim, outcome or Succeeded("1"), 0.2, 0.1)


def entry(taken: Claimed, outcome: Outcome | None = None) -> tuple[Report, Verdict]:
    """A report and its verdict, as the hot path writes them."""
    told = report(taken, outcome)
    return told, decide(taken.job, told.outcome)


def failed(text: str = "Traceback: boom") -> Failed:
    """A handler that raised."""
    return Failed(text, ("builtins.ValueError", "builtins.Exception"))


def args_of(row: dict[str, Any]) -> list[Any]:
    """The positional arguments in a row."""
    payload = row["payload"]
    return list((json.loads(payload) if isinstance(payload, str) else payload or {}).get("args", []))
