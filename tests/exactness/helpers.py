"""Short words for tests that break things on purpose."""

import os
import random
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import psycopg

from pgwerk import Job, JobStatus, Werk
from tests.fixtures.looking import looking_at
from tests.fixtures.waiting import eventually
from tests.fixtures.workers import Notes, WorkerProcess

Start = Callable[..., WorkerProcess]


class Outside:
    """The tables as somebody sees them who has only SQL."""

    def __init__(self, app: Werk, pg: "psycopg.Connection[Any]") -> None:
        self._names = app._app.names
        self._looking = looking_at(app, pg, self._names)

    def sql(self, text: str, *params: Any) -> list[tuple[Any, ...]]:
        """Run a command; {jobs} and its like are the names of tables."""
        return self._looking.sql(text, *params)

    def rendered(self, text: str) -> str:
        """The command with the names of the tables, for a connection of one's own."""
        return self._names.render(text, with_params=True)

    def one(self, text: str, *params: Any) -> Any:
        """The first column of the first row."""
        rows = self.sql(text, *params)
        return rows[0][0] if rows else None

    def count(self, where: str = "true", *params: Any) -> int:
        """How many jobs there are like this."""
        return int(self.one(f"select count(*) from {{jobs}} where {where}", *params))

    def ended(self, count: int, where: str = "true", seconds: float = 60.0) -> None:
        """Wait until so many jobs like this have ended."""
        terminal = "status in ('complete', 'failed', 'aborted')"
        eventually(lambda: self.count(f"{terminal} and ({where})") >= count, seconds, f"the end of {count} jobs")

    def nothing_is_left_behind(self) -> None:
        """No job runs or waits, no permit is taken, no claim is open that holds a job."""
        open_ = (
            "select id, function, status, attempts from {jobs} where status not in ('complete', 'failed', 'aborted')"
        )
        assert self.sql(open_) == []
        assert self.sql("select * from {permits}") == []
        assert self.sql("select * from {worker_jobs}") == []


def in_a_fork(work: Callable[[], Any]) -> int:
    """Run *work* in a process of its own and return how that ended, as a shell would say it."""
    with warnings.catch_warnings():
        # Newer Pythons warn of threads in the parent; the child uses nothing of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 70
        try:
            random.seed()
            work()
            code = 0
        except BaseException:
            # Otherwise nobody would ever know.
            os.write(2, traceback.format_exc().encode())
            raise
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def enqueued(job: Job | None) -> Job:
    """The job, which must not be None."""
    assert job is not None
    return job


def expect(app: Werk, job: Job | str, status: JobStatus, *, attempts: int | None = None, seconds: float = 30.0) -> Job:
    """Wait for the end of a job and say that it must be this one."""
    ended = app.wait_for(job, timeout=seconds, poll_interval=0.25)
    assert ended.status is status, (ended.status, ended.error)
    if attempts is not None:
        assert ended.attempts == attempts, (ended.attempts, [e.status for e in app.get_executions(ended)])
    return ended


def most_at_once(notes: Notes, group: str) -> int:
    """How many members of a group were inside at the same time."""
    inside = most = 0
    for what in notes.all():
        if what == f"enter {group}":
            inside += 1
            most = max(most, inside)
        elif what == f"leave {group}":
            inside -= 1
    return most
