"""The synchronous app: one line for each thing that can be asked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, overload

from pgwerk._application import Application, ended_statuses, job_filter, job_id
from pgwerk._connections import usable_connection
from pgwerk._core import options as opt
from pgwerk._core.context import Context
from pgwerk._core.job import Job, JobExecution, JobStatus
from pgwerk._core.operation import Operation, Procedure, R
from pgwerk._core.operations import manage, migrate, settle
from pgwerk._core.operations.enqueue import Order
from pgwerk._core.options import EnqueueParams
from pgwerk._core.ordering import encode_meta, split_options
from pgwerk._core.outcome import Aborted
from pgwerk._core.procedures import bulk, enqueue, sweep
from pgwerk._core.schema import migrations
from pgwerk._core.statements import admin, queries, schema, workers
from pgwerk._names import TABLES
from pgwerk.errors import EnqueueError, JobError, JobNotFound, WerkError
from pgwerk.sync.executor import Executor
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

    def __init__(self, dsn: str | None = None, **settings: Any) -> None:
        super().__init__(dsn, **settings)
        # By setdefault, which is atomic: threads may meet here, and a lock would not survive a fork.
        self._executors: dict[str, Executor] = {}
        self._rooms: dict[str, WaitingRoom] = {}
        self._migrated = False
        self._connected = False

    # Lifecycle --------------------------------------------------------------------

    def connect(self) -> None:
        """Create or check the tables and run startup hooks; safe to call again. Optional: the first use does it."""
        if self._connected:
            return
        self.connect_lazily()
        self._connected = True
        for hook in self._startup:
            hook()

    def connect_lazily(self) -> None:
        """Create or check the tables, once."""
        if not self._migrated:
            # Read first: a role without the right to create can use tables that are up to date.
            found = self.executor.run(migrate.version())
            if self.auto_migrate and found < migrate.latest():
                _ = self.executor.run(migrate.migrate())
            else:
                _ = self.executor.run(migrate.check())
            self._migrated = True

    def disconnect(self) -> None:
        """Run shutdown hooks and close connections; the app may be used again."""
        if self._connected:
            self._connected = False
            for hook in self._shutdown:
                hook()
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
            dsn = self.dsn
            if dsn.startswith("embedded:"):
                from pgwerk import embedded  # noqa: PLC0415  # an extra

                dsn = embedded.resolve(dsn)
            made = Executor(dsn, self.names, pool_size=self.config.pool_size, pooled=self.config.pool)
            _ = self._executors.setdefault("own", made)
        return self._executors["own"]

    def _run(self, op: Operation[R]) -> R:
        self.connect_lazily()
        return self.executor.run(op)

    def _perform(self, steps: Procedure[R]) -> R:
        self.connect_lazily()
        return self.executor.perform(steps)

    # Enqueueing -------------------------------------------------------------------

    def enqueue(self, func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a call of *func*; arguments with a leading underscore are options. None: its `_key` exists.

        *func* is a module-level function, a task or a dotted path. Raises EnqueueError or SerializationError before
        anything is written.
        """
        order, options = self._order(func, args, kwargs)
        return self._place(order, options)

    def enqueue_call(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Job | None:
        """Enqueue a call with its options apart from its arguments, as tasks do."""
        return self._place(self._order_with(func, args, dict(kwargs), options), options)

    def _place(self, order: Order, options: Mapping[str, Any]) -> Job | None:
        if options.get("sync"):
            return run_inline(self, order, options.get("conn"))
        return self._insert([order], options.get("conn"))[0]

    def enqueue_many(self, specs: Iterable[EnqueueParams], *, _conn: Any = None) -> list[Job | None]:
        """Enqueue jobs in bulk, all or none of them; in order, None where a key exists."""
        return self._insert(self._orders(specs), _conn)

    def enqueue_at(self, at: datetime, func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a call for the time *at* (a naive time is UTC)."""
        return self.enqueue(func, *args, **{**kwargs, "_at": at})

    def enqueue_in(
        self, delay: float | timedelta, func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> Job | None:
        """Enqueue a call for *delay* seconds from now."""
        return self.enqueue(func, *args, **{**kwargs, "_delay": delay})

    def _insert(self, orders: Sequence[Order], conn: Any) -> list[Job | None]:
        if not orders:
            return []
        steps = enqueue.enqueue_all(orders, joined=conn is not None)
        if conn is None:
            inserted = self._perform(steps)
        else:
            connection = usable_connection(conn)
            if self.auto_migrate:
                self.connect_lazily()
            inserted = self.executor.perform(steps, connection)
        return [self._job(order, row) if row is not None else None for order, row in zip(orders, inserted, strict=True)]

    # Tasks ------------------------------------------------------------------------

    @overload
    def task(self, func: Callable[Concatenate[Context, P], T], /) -> Task[P, T]: ...
    @overload
    def task(self, func: Callable[P, T], /) -> Task[P, T]: ...
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
        id_ = job_id(job)
        self._wait([id_], timeout, poll_interval)
        return self.get_job(id_)

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
        options, own = split_options(kwargs, frozenset({"conn", "sync"}))
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
        if options.get("conn") is not None:
            raise EnqueueError(_CANNOT_WAIT.format("apply"))
        job = self.enqueue_call(func, args, kwargs, options)
        if job is None:
            raise _key_exists(options.get("key"))
        return result_of(self.wait_for(job, timeout=timeout, poll_interval=poll_interval))

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
        calls = [self._order(func, (), {**shared, **own}) for own in iter_kwargs]
        if any(options.get("conn") is not None for _, options in calls):
            raise EnqueueError(_CANNOT_WAIT.format("map"))
        if any(options.get("sync") for _, options in calls):
            jobs = [self._place(order, options) for order, options in calls]
        else:
            jobs = self._insert([order for order, _ in calls], None)
        taken = [order.values.get("key") for (order, _), job in zip(calls, jobs, strict=True) if job is None]
        if taken and not return_exceptions:
            raise _key_exists(taken[0])
        ids = [job.id for job in jobs if job is not None]
        if ids:
            self._wait(ids, timeout, poll_interval)
        found = self._run(queries.get_many(ids, self.decode))
        results: list[Any] = []
        for (order, _), job in zip(calls, jobs, strict=True):
            try:
                results.append(_mapped(order, job, found))
            except JobError as error:
                if not return_exceptions:
                    raise
                results.append(error)
        return results

    def _wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        self.connect_lazily()
        if not self._rooms:
            _ = self._rooms.setdefault("own", WaitingRoom(self.executor, self.names.done_channel, self.listen_dsn))
        self._rooms["own"].wait(ids, timeout, poll_interval)

    # Inspecting -------------------------------------------------------------------

    def get_job(self, job: Job | str) -> Job:
        """Read a job; raises JobNotFound."""
        id_ = job_id(job)
        found = self._run(queries.get(id_, self.decode))
        if found is None:
            raise JobNotFound(id_)
        return found

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
        which = job_filter(
            queue=queue, status=status, worker_id=worker_id, search=search, schedule_name=schedule_name,
            retried=retried, function=function, before=before,
        )  # fmt: skip
        limit = opt.whole("limit", limit, 0, 100_000)
        offset = opt.whole("offset", offset, 0, 2**62)
        return self._run(queries.list_jobs(which, limit, offset, self.decode))

    def get_executions(self, job: Job | str) -> list[JobExecution]:
        """List the attempts at a job, oldest first."""
        return self._run(queries.executions(job_id(job), self.decode))

    def get_job_dependencies(self, job: Job | str) -> list[str]:
        """List the ids of the jobs that a job depends on."""
        return self._run(queries.dependencies(job_id(job)))

    def get_queue_stats(self) -> list[queries.QueueStats]:
        """Count jobs by queue and status. Reads the whole table."""
        return self._run(queries.queue_stats())

    def list_workers(self) -> list[workers.WorkerInfo]:
        """List workers, the living first."""
        return self._run(workers.roster())

    # Managing ---------------------------------------------------------------------

    def cancel_job(self, job: Job | str) -> bool:
        """Abort a job that has not started. False: it has, or is unknown."""
        return bool(self._run(settle.end_unstarted([job_id(job)], Aborted("aborted: cancelled"))))

    def abort_job(self, job: Job | str) -> bool:
        """Abort a job, also one that runs: its handler is interrupted. False: it has ended, or is unknown."""
        return self._run(manage.abort(job_id(job)))

    def requeue_job(self, job: Job | str) -> bool:
        """Queue a failed or aborted job again, with as many attempts as it had. False: it is neither."""
        return bool(self._run(admin.requeue([job_id(job)])))

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
        id_ = self._id_or_key(id_or_key)
        if id_ is None:
            return False
        change = manage.update(
            id_,
            at=opt.aware(at),
            delay=None if delay is None else opt.seconds("delay", delay),
            priority=None if priority is None else opt.whole("priority", priority, -32768, 32767),
            meta=None if meta is None else encode_meta(dict(meta)),
        )
        return self._run(change)

    def _id_or_key(self, value: Job | str) -> str | None:
        try:
            return job_id(value)
        except JobNotFound:
            found = self._run(queries.get_by_key(str(value), self.decode))
            return found.id if found is not None else None

    def delete_job(self, job: Job | str) -> None:
        """Delete a job's row in whatever state it is; those that wait for it end or go on. Raises JobNotFound."""
        id_ = job_id(job)
        if not self._run(manage.delete([id_])):
            raise JobNotFound(id_)

    def touch_job(self, job: Job | str) -> None:
        """Renew the heartbeat of a running job; raises JobNotFound when none runs."""
        id_ = job_id(job)
        if not self._run(admin.touch_any(id_)):
            raise JobNotFound(id_)

    def bulk_requeue_jobs(self, queue: str | None = None, function_name: str | None = None) -> int:
        """Queue failed and aborted jobs again, of one queue or function or all; how many."""
        return self._perform(bulk.requeue_all(queue, function_name))

    def bulk_cancel_jobs(self, queue: str | None = None) -> int:
        """Abort jobs that have not started, of one queue or all; how many."""
        return self._perform(bulk.cancel_all(queue))

    def purge_jobs(self, statuses: str | Sequence[str] = ("complete",), older_than_days: float = 30) -> int:
        """Delete jobs in these terminal statuses that ended so many days ago, in batches; how many."""
        age = opt.seconds("older_than_days", older_than_days) * 86400
        return self._perform(bulk.purge(ended_statuses(statuses), age))

    def pause_queue(self, name: str, reason: str | None = None) -> None:
        """Let no worker claim from a queue; what runs goes on."""
        self._run(admin.pause(name, reason))

    def resume_queue(self, name: str) -> bool:
        """Let workers claim from a queue again. False: it was not paused."""
        return self._run(admin.resume(name))

    # Maintenance ------------------------------------------------------------------

    def sweep(self) -> list[str]:
        """Recover jobs whose worker is dead and mend what races may have left; the ids of recovered jobs.

        Workers do this by themselves.
        """
        return self._perform(sweep.sweep(self.liveness, self.config.max_active_secs)).recovered

    def vacuum(self) -> None:
        """VACUUM ANALYZE all tables."""
        self.connect_lazily()
        for table in TABLES:
            if table != "worker_jobs":
                self.executor.run(admin.vacuum(table))

    def truncate(self) -> None:
        """Delete every job, worker and queue; needs ``allow_truncate=True`` in the config."""
        if not self.config.allow_truncate:
            raise WerkError("truncate() deletes every job: it needs WerkConfig(allow_truncate=True)")
        self._run(schema.truncate_all())

    def migrate(self) -> list[str]:
        """Create or update the tables; the names of the migrations that were applied."""
        applied = self.executor.run(migrate.migrate())
        self._migrated = True
        return applied

    def schema_version(self) -> int:
        """Read the version of the tables; 0 when there are none."""
        return self.executor.run(migrate.version())

    def pending_migrations(self) -> list[str]:
        """Name the migrations that `migrate()` would apply. Changes nothing."""
        found = self.executor.run(migrate.version())
        return [migration.label for migration in migrations() if migration.version > found]


def result_of(job: Job) -> Any:
    """The result of an ended job; raises JobError when it did not succeed."""
    if job.status is JobStatus.COMPLETE:
        return job.result
    reason = job.reason or "no reason was recorded"
    raise JobError(f"job {job.id} ({job.function}) {job.status.value}: {reason}", job)


_CANNOT_WAIT = "{}() cannot wait for a job that is part of an open transaction: no worker sees it before the commit"


def _key_exists(key: object) -> JobError:
    return JobError(f"a job with the key {key!r} exists already; this call was not enqueued")


def _mapped(order: Order, job: Job | None, found: Mapping[str, Job]) -> Any:
    if job is None:
        raise _key_exists(order.values.get("key"))
    if job.id not in found:
        # Deleted between its end and our look.
        raise JobNotFound(job.id)
    return result_of(found[job.id])
