"""The synchronous app: one line for each thing that can be asked."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from pgwerk._app import requests
from pgwerk._app.calls import (
    Options,
    ids_to_wait_for,
    newly_enqueued,
    refuse_to_wait,
    result_of,
    results_of,
    split_call,
    with_defaults,
)
from pgwerk._app.definition import Application
from pgwerk._app.waiting import TimeLeft
from pgwerk._core.context import Context
from pgwerk._core.enqueueing import Draft
from pgwerk._core.job import Job, JobExecution
from pgwerk._core.operation import Operation, Procedure, R
from pgwerk._core.operations import manage, migrate
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.options import EnqueueParams
from pgwerk._core.procedures import bulk
from pgwerk._core.statements import admin, queries, workers
from pgwerk._postgres.callers import usable_connection
from pgwerk._postgres.deadlines import deadline, remaining, unhurried
from pgwerk.sync.executor import Executor
from pgwerk.sync.hooks import finish
from pgwerk.sync.inline import run_inline
from pgwerk.sync.tasks import Task, TaskDecorator
from pgwerk.sync.waiting import WaitingRoom

P = ParamSpec("P")
T = TypeVar("T")


class Werk(Application):
    """A job queue in a Postgres database.

    Nothing is connected until the first use; any number of threads may share one, and a process that forks may go
    on using it on both sides. *dsn* None reads PGWERK_DSN, then DATABASE_URL. *schema* "public" or "" means
    unqualified names. Raises ConfigError for what cannot be a setting.
    """

    face = "sync"

    def unconnected(self) -> None:
        """Make what a face does not share with the other one."""
        # By setdefault, which is atomic: threads may meet here, and a lock would not survive a fork.
        self._executors: dict[str, Executor] = {}
        self._rooms: dict[str, WaitingRoom] = {}

    # Lifecycle --------------------------------------------------------------------

    def connect(self) -> None:
        """Create or check the tables and run startup hooks; safe to call again. Optional: the first use does it."""
        self.connect_lazily()
        if self._state.begin():
            for hook in self._startup:
                finish(hook())

    def connect_lazily(self) -> None:
        """Create or check the tables, once."""
        if not self._state.migrated:
            self.executor.perform(self._preparing())

    def disconnect(self) -> None:
        """Run shutdown hooks and close connections; the app may be used again."""
        if self._state.end():
            for hook in self._shutdown:
                finish(hook())
        for room in self._rooms.values():
            room.close()
        for executor in self._executors.values():
            executor.close()

    close = disconnect

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    @property
    def executor(self) -> Executor:
        """What runs operations for this app, made at first use."""
        if not self._executors:
            config = self.config
            made = Executor(
                self.resolved_dsn(), self.names,
                pool_size=config.pool_size, pooled=config.pool, pool_timeout=config.pool_timeout,
            )  # fmt: skip
            _ = self._executors.setdefault("own", made)
        return self._executors["own"]

    def _run(self, op: Operation[R]) -> R:
        self.connect_lazily()
        return self.executor.run(op)

    def _perform(self, steps: Procedure[R], conn: Any = None) -> R:
        connection = usable_connection(conn) if conn is not None else None
        if connection is None or self.auto_migrate:
            self.connect_lazily()
        return self.executor.perform(steps, connection)

    # Enqueueing -------------------------------------------------------------------

    def enqueue(self, func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a call of *func*; arguments with a leading underscore are options. None: its `_key` exists.

        *func* is a module-level function, a task or a dotted path. Raises EnqueueError or SerializationError before
        anything is written.
        """
        options, own = split_call(kwargs)
        return self.enqueue_call(func, args, own, options)

    def enqueue_call(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Job | None:
        """Enqueue a call with its options apart from its arguments, as tasks do."""
        options = with_defaults(func, options)
        return self._place(self._ordered(self._draft(func, args, kwargs, options)), options)

    def enqueue_many(self, specs: Iterable[EnqueueParams], *, _conn: Any = None) -> list[Job | None]:
        """Enqueue jobs in bulk, all or none of them; in order, None where a key exists."""
        return self._insert([self._ordered(draft) for draft in self._drafts(specs)], _conn)

    def enqueue_at(self, at: datetime, func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a call for the time *at* (a naive time is UTC)."""
        return self.enqueue(func, *args, **{**kwargs, "_at": at})

    def enqueue_in(
        self, delay: float | timedelta, func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> Job | None:
        """Enqueue a call for *delay* seconds from now."""
        return self.enqueue(func, *args, **{**kwargs, "_delay": delay})

    def _ordered(self, draft: Draft) -> NewJob:
        for hook in tuple(self._before_enqueue):
            finish(hook(draft.job))
        return draft.new_job()

    def _place(self, new_job: NewJob, options: Options) -> Job | None:
        if options.get("sync"):
            return run_inline(self, new_job, options.get("conn"))
        return self._insert([new_job], options.get("conn"))[0]

    def _insert(self, new_jobs: Sequence[NewJob], conn: Any) -> list[Job | None]:
        if not new_jobs:
            return []
        return self._perform(self._inserting(new_jobs, joined=conn is not None), conn)

    # Tasks ------------------------------------------------------------------------

    @overload
    def task(
        self, func: Callable[Concatenate[Context, P], Coroutine[Any, Any, T]], /
    ) -> Task[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def task(self, func: Callable[Concatenate[Context, P], T], /) -> Task[P, T, T]: ...
    @overload
    def task(self, func: Callable[P, Coroutine[Any, Any, T]], /) -> Task[P, Coroutine[Any, Any, T], T]: ...
    @overload
    def task(self, func: Callable[P, T], /) -> Task[P, T, T]: ...
    @overload
    def task(self, /, **options: Any) -> TaskDecorator: ...
    def task(self, func: Any = None, /, **options: Any) -> Any:
        """Make a function a task: ``@app.task`` or ``@app.task(queue="mail", retry=3)``.

        Options are those of `enqueue` without the underscore. Calling a task calls the function;
        ``.enqueue(…)`` takes the function's own parameters (without its context), typed.
        """
        if func is not None:
            return Task(self, func, options)
        return TaskDecorator(self, options)

    # Waiting ----------------------------------------------------------------------

    def wait_for(self, job: Job | str, *, timeout: float | None = None, poll_interval: float = 2.0) -> Job:
        """Wait until a job has ended and return it.

        Woken by the end itself; *poll_interval* only matters where notifications do not get through.
        Raises JobTimeout after *timeout* seconds, JobNotFound when it does not exist (any more).
        """
        self._wait([requests.job_id(job)], timeout, poll_interval)
        return self.get_job(job)

    def apply(
        self,
        func: Callable[..., Any] | str,
        /,
        *args: Any,
        timeout: float | None = None,
        poll_interval: float = 0.5,
        **kwargs: Any,
    ) -> Any:
        """Enqueue a call, wait for its end and return its result.

        Raises JobError (with `.job`) when it fails or is aborted, JobTimeout after *timeout* seconds.
        """
        options, own = split_call(kwargs)
        return self.apply_call(func, args, own, options, timeout, poll_interval)

    def apply_call(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        timeout: float | None,
        poll_interval: float = 0.5,
    ) -> Any:
        """Do `apply` with the options apart from the arguments, as tasks do."""
        refuse_to_wait("apply", options)
        with deadline(timeout):
            job = newly_enqueued(self.enqueue_call(func, args, kwargs, options), options)
            left = TimeLeft.of(timeout, remaining())
        return result_of(self.wait_for(job, timeout=left, poll_interval=poll_interval))

    def map(
        self,
        func: Callable[..., Any] | str,
        iter_kwargs: Iterable[Mapping[str, Any]],
        *,
        timeout: float | None = None,
        poll_interval: float = 0.5,
        return_exceptions: bool = False,
        **shared: Any,
    ) -> list[Any]:
        """Enqueue a call for each dict of arguments and return the results in their order.

        *shared*: arguments and options of every call. With *return_exceptions* a JobError stands where a job did
        not succeed, else the first is raised.
        """
        calls = self._calls(func, iter_kwargs, shared)
        new_jobs = [self._ordered(draft) for draft, _ in calls]
        left = timeout
        if any(options.get("sync") for _, options in calls):
            jobs = [self._place(new_job, options) for new_job, (_, options) in zip(new_jobs, calls, strict=True)]
        else:
            with deadline(timeout):
                jobs = self._insert(new_jobs, None)
                left = TimeLeft.of(timeout, remaining())
        ids = ids_to_wait_for(new_jobs, jobs, return_exceptions=return_exceptions)
        if ids:
            self._wait(ids, left, poll_interval)
        ended = self._run(queries.get_many(ids, self.decode))
        return results_of(new_jobs, jobs, ended, return_exceptions=return_exceptions)

    def _wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        self.connect_lazily()
        if not self._rooms:
            _ = self._rooms.setdefault("own", WaitingRoom(self.executor, self.names.done_channel, self.listen_dsn))
        self._rooms["own"].wait(ids, timeout, poll_interval)

    # Inspecting -------------------------------------------------------------------

    def get_job(self, job: Job | str) -> Job:
        """Read a job; raises JobNotFound."""
        return self._run(requests.get_job(job, self.decode))

    def list_jobs(
        self,
        queue: str | Sequence[str] | None = None,
        status: str | Sequence[str] | None = None,
        worker_id: str | None = None,
        search: str | None = None,
        schedule_name: str | None = None,
        retried: bool | None = None,
        limit: int = 50,
        offset: int = 0,
        *,
        function: str | Sequence[str] | None = None,
        before: Job | str | None = None,
    ) -> list[Job]:
        """List jobs, newest first. *search* looks into function, id, key, queue and meta.

        For pages, pass the last job of a page as *before*: it stays fast and stable where *offset* does not.
        """
        wanted = requests.list_jobs(
            self.decode, limit, offset, queue=queue, status=status, worker_id=worker_id, search=search,
            schedule_name=schedule_name, retried=retried, function=function, before=before,
        )  # fmt: skip
        return self._run(wanted)

    def get_executions(self, job: Job | str) -> list[JobExecution]:
        """List the attempts at a job, oldest first."""
        return self._run(requests.get_executions(job, self.decode))

    def get_job_dependencies(self, job: Job | str) -> list[str]:
        """List the ids of the jobs that a job depends on."""
        return self._run(requests.get_job_dependencies(job))

    def get_queue_stats(self) -> list[queries.QueueStats]:
        """Count jobs by queue and status. Reads the whole table."""
        with unhurried():
            return self._run(queries.queue_stats())

    def list_workers(self) -> list[workers.WorkerInfo]:
        """List workers, the living first."""
        return self._run(workers.roster())

    # Managing ---------------------------------------------------------------------

    def cancel_job(self, job: Job | str) -> bool:
        """Abort a job that has not started. False: it has, or is unknown."""
        return self._run(requests.cancel_job(job))

    def abort_job(self, job: Job | str) -> bool:
        """Abort a job, also one that runs: its handler is interrupted. False: it has ended, or is unknown."""
        return self._perform(requests.abort_job(job))

    def requeue_job(self, job: Job | str) -> bool:
        """Queue a failed or aborted job again, with as many attempts as it had at first. False: it is neither."""
        return self._run(requests.requeue_job(job))

    def update_job(
        self,
        id_or_key: Job | str,
        *,
        at: datetime | None = None,
        delay: float | timedelta | None = None,
        priority: int | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> bool:
        """Change when and how urgently a job that has not started runs; *meta* may change at any time.

        False: there is no such job, or it has started.
        """
        steps = requests.update_job(id_or_key, self.decode, at=at, delay=delay, priority=priority, meta=meta)
        return self._perform(steps)

    def delete_job(self, job: Job | str) -> None:
        """Delete a job's row in whatever state it is; those that wait for it end or go on. Raises JobNotFound."""
        self._perform(requests.delete_job(job))

    def touch_job(self, job: Job | str) -> None:
        """Renew the heartbeat of a running job; raises JobNotFound when none runs."""
        self._run(requests.touch_job(job))

    def bulk_requeue_jobs(self, queue: str | None = None, function_name: str | None = None) -> int:
        """Queue failed and aborted jobs again, of one queue or function or all; how many."""
        with unhurried():
            return self._perform(bulk.requeue_all(queue, function_name))

    def bulk_cancel_jobs(self, queue: str | None = None) -> int:
        """Abort jobs that have not started, of one queue or all; how many."""
        with unhurried():
            return self._perform(bulk.cancel_all(queue))

    def purge_jobs(self, statuses: str | Sequence[str] = ("complete",), older_than_days: float = 30) -> int:
        """Delete jobs in these terminal statuses that ended so many days ago, in batches; how many."""
        with unhurried():
            return self._perform(requests.purge_jobs(statuses, older_than_days))

    def pause_queue(self, name: str, reason: str | None = None) -> None:
        """Let no worker claim from a queue; what runs goes on."""
        self._run(manage.pause(name, reason))

    def resume_queue(self, name: str) -> bool:
        """Let workers claim from a queue again. False: it was not paused."""
        return self._run(admin.resume(name))

    # Maintenance ------------------------------------------------------------------

    def sweep(self) -> list[str]:
        """Recover jobs whose worker is dead and mend what races may have left; the ids of recovered jobs.

        Workers do this by themselves.
        """
        return self._perform(requests.sweep(self.liveness, self.config.max_active_secs, self.config.max_lost))

    def vacuum(self) -> None:
        """VACUUM ANALYZE all tables."""
        with unhurried():
            self._perform(requests.vacuum())

    def truncate(self) -> None:
        """Delete every job, worker and queue; needs ``allow_truncate=True`` in the config."""
        self._run(requests.truncate(allowed=self.config.allow_truncate))

    def migrate(self) -> list[str]:
        """Create or update the tables; the names of the migrations that were applied."""
        return self.executor.perform(self._migrating())

    def schema_version(self) -> int:
        """Read the version of the tables; 0 when there are none."""
        return self.executor.run(migrate.version())

    def pending_migrations(self) -> list[str]:
        """Name the migrations that `migrate()` would apply. Changes nothing."""
        return self.executor.run(requests.pending_migrations())
