"""The asyncio app: one line for each thing that can be asked."""

import asyncio
import inspect
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
from pgwerk._postgres.callers_aio import usable_connection
from pgwerk._postgres.deadlines import deadline, remaining, unhurried
from pgwerk.aio.executor import Executor
from pgwerk.aio.inline import run_inline
from pgwerk.aio.loops import PerLoop
from pgwerk.aio.tasks import Task, TaskDecorator
from pgwerk.aio.waiting import WaitingRoom

P = ParamSpec("P")
T = TypeVar("T")


class Werk(Application):
    """A job queue in a Postgres database.

    Nothing is connected until the first use; any number of tasks and loops may share one, and a process that forks
    may go on using it on both sides. *dsn* None reads PGWERK_DSN, then DATABASE_URL. *schema* "public" or "" means
    unqualified names. Raises ConfigError for what cannot be a setting.
    """

    face = "aio"

    def unconnected(self) -> None:
        """Make what a face does not share with the other one."""
        # By setdefault, which is atomic: threads may meet here, and a lock would not survive a fork.
        self._executors: dict[str, Executor] = {}
        self._rooms: dict[str, WaitingRoom] = {}
        self._locks: PerLoop[asyncio.Lock] = PerLoop(lambda _: None)
        """For the first connect: as many tasks as there are need not all look whether the tables are there."""

    # Lifecycle --------------------------------------------------------------------

    async def connect(self) -> None:
        """Create or check the tables and run startup hooks; safe to call again. Optional: the first use does it."""
        await self.connect_lazily()
        if self._state.begin():
            for hook in self._startup:
                await finish(hook())

    async def connect_lazily(self) -> None:
        """Create or check the tables, once."""
        if self._state.migrated:
            return
        if self.dsn.startswith("embedded:") and not self._executors:
            # Starting a server would block the loop.
            _ = await asyncio.to_thread(getattr, self, "executor")
        async with self._locks.get() or self._locks.put(asyncio.Lock()):
            if not self._state.migrated:
                await self.executor.perform(self._preparing())

    async def disconnect(self) -> None:
        """Run shutdown hooks and close connections; the app may be used again.

        Those of this event loop; others close theirs themselves, or leave that to the end of the loop.
        """
        if self._state.end():
            for hook in self._shutdown:
                await finish(hook())
        for room in self._rooms.values():
            room.close()
        for executor in self._executors.values():
            await executor.close()
        if next(iter(self.faces)) == self.face and "sync" in self.faces:
            # A worker, for instance, has asked this app for it: nobody else will close it.
            await asyncio.to_thread(self.sync.close)

    close = disconnect

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

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

    async def _run(self, op: Operation[R]) -> R:
        await self.connect_lazily()
        return await self.executor.run(op)

    async def _perform(self, steps: Procedure[R], conn: Any = None) -> R:
        connection = await usable_connection(conn) if conn is not None else None
        if connection is None or self.auto_migrate:
            await self.connect_lazily()
        return await self.executor.perform(steps, connection)

    # Enqueueing -------------------------------------------------------------------

    async def enqueue(self, func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any) -> Job | None:
        """Enqueue a call of *func*; arguments with a leading underscore are options. None: its `_key` exists.

        *func* is a module-level function, a task or a dotted path. Raises EnqueueError or SerializationError before
        anything is written.
        """
        options, own = split_call(kwargs)
        return await self.enqueue_call(func, args, own, options)

    async def enqueue_call(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Job | None:
        """Enqueue a call with its options apart from its arguments, as tasks do."""
        options = with_defaults(func, options)
        return await self._place(await self._ordered(self._draft(func, args, kwargs, options)), options)

    async def enqueue_many(self, specs: Iterable[EnqueueParams], *, _conn: Any = None) -> list[Job | None]:
        """Enqueue jobs in bulk, all or none of them; in order, None where a key exists."""
        return await self._insert([await self._ordered(draft) for draft in self._drafts(specs)], _conn)

    async def enqueue_at(
        self, at: datetime, func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> Job | None:
        """Enqueue a call for the time *at* (a naive time is UTC)."""
        return await self.enqueue(func, *args, **{**kwargs, "_at": at})

    async def enqueue_in(
        self, delay: float | timedelta, func: Callable[..., Any] | str, /, *args: Any, **kwargs: Any
    ) -> Job | None:
        """Enqueue a call for *delay* seconds from now."""
        return await self.enqueue(func, *args, **{**kwargs, "_delay": delay})

    async def _ordered(self, draft: Draft) -> NewJob:
        for hook in tuple(self._before_enqueue):
            await finish(hook(draft.job))
        return draft.new_job()

    async def _place(self, new_job: NewJob, options: Options) -> Job | None:
        if options.get("sync"):
            return await run_inline(self, new_job, options.get("conn"))
        return (await self._insert([new_job], options.get("conn")))[0]

    async def _insert(self, new_jobs: Sequence[NewJob], conn: Any) -> list[Job | None]:
        if not new_jobs:
            return []
        return await self._perform(self._inserting(new_jobs, joined=conn is not None), conn)

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

    async def wait_for(self, job: Job | str, *, timeout: float | None = None, poll_interval: float = 2.0) -> Job:
        """Wait until a job has ended and return it.

        Woken by the end itself; *poll_interval* only matters where notifications do not get through.
        Raises JobTimeout after *timeout* seconds, JobNotFound when it does not exist (any more).
        """
        await self._wait([requests.job_id(job)], timeout, poll_interval)
        return await self.get_job(job)

    async def apply(
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
        return await self.apply_call(func, args, own, options, timeout, poll_interval)

    async def apply_call(
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
            job = newly_enqueued(await self.enqueue_call(func, args, kwargs, options), options)
            left = TimeLeft.of(timeout, remaining())
        return result_of(await self.wait_for(job, timeout=left, poll_interval=poll_interval))

    async def map(
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
        new_jobs = [await self._ordered(draft) for draft, _ in calls]
        left = timeout
        if any(options.get("sync") for _, options in calls):
            jobs = [await self._place(new_job, options) for new_job, (_, options) in zip(new_jobs, calls, strict=True)]
        else:
            with deadline(timeout):
                jobs = await self._insert(new_jobs, None)
                left = TimeLeft.of(timeout, remaining())
        ids = ids_to_wait_for(new_jobs, jobs, return_exceptions=return_exceptions)
        if ids:
            await self._wait(ids, left, poll_interval)
        ended = await self._run(queries.get_many(ids, self.decode))
        return results_of(new_jobs, jobs, ended, return_exceptions=return_exceptions)

    async def _wait(self, ids: Sequence[str], timeout: float | None, poll_interval: float) -> None:
        await self.connect_lazily()
        if not self._rooms:
            _ = self._rooms.setdefault("own", WaitingRoom(self.executor, self.names.done_channel, self.listen_dsn))
        await self._rooms["own"].wait(ids, timeout, poll_interval)

    # Inspecting -------------------------------------------------------------------

    async def get_job(self, job: Job | str) -> Job:
        """Read a job; raises JobNotFound."""
        return await self._run(requests.get_job(job, self.decode))

    async def list_jobs(
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
        return await self._run(wanted)

    async def get_executions(self, job: Job | str) -> list[JobExecution]:
        """List the attempts at a job, oldest first."""
        return await self._run(requests.get_executions(job, self.decode))

    async def get_job_dependencies(self, job: Job | str) -> list[str]:
        """List the ids of the jobs that a job depends on."""
        return await self._run(requests.get_job_dependencies(job))

    async def get_queue_stats(self) -> list[queries.QueueStats]:
        """Count jobs by queue and status. Reads the whole table."""
        with unhurried():
            return await self._run(queries.queue_stats())

    async def list_workers(self) -> list[workers.WorkerInfo]:
        """List workers, the living first."""
        return await self._run(workers.roster())

    # Managing ---------------------------------------------------------------------

    async def cancel_job(self, job: Job | str) -> bool:
        """Abort a job that has not started. False: it has, or is unknown."""
        return await self._run(requests.cancel_job(job))

    async def abort_job(self, job: Job | str) -> bool:
        """Abort a job, also one that runs: its handler is interrupted. False: it has ended, or is unknown."""
        return await self._perform(requests.abort_job(job))

    async def requeue_job(self, job: Job | str) -> bool:
        """Queue a failed or aborted job again, with as many attempts as it had at first. False: it is neither."""
        return await self._run(requests.requeue_job(job))

    async def update_job(
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
        return await self._perform(steps)

    async def delete_job(self, job: Job | str) -> None:
        """Delete a job's row in whatever state it is; those that wait for it end or go on. Raises JobNotFound."""
        await self._perform(requests.delete_job(job))

    async def touch_job(self, job: Job | str) -> None:
        """Renew the heartbeat of a running job; raises JobNotFound when none runs."""
        await self._run(requests.touch_job(job))

    async def bulk_requeue_jobs(self, queue: str | None = None, function_name: str | None = None) -> int:
        """Queue failed and aborted jobs again, of one queue or function or all; how many."""
        with unhurried():
            return await self._perform(bulk.requeue_all(queue, function_name))

    async def bulk_cancel_jobs(self, queue: str | None = None) -> int:
        """Abort jobs that have not started, of one queue or all; how many."""
        with unhurried():
            return await self._perform(bulk.cancel_all(queue))

    async def purge_jobs(self, statuses: str | Sequence[str] = ("complete",), older_than_days: float = 30) -> int:
        """Delete jobs in these terminal statuses that ended so many days ago, in batches; how many."""
        with unhurried():
            return await self._perform(requests.purge_jobs(statuses, older_than_days))

    async def pause_queue(self, name: str, reason: str | None = None) -> None:
        """Let no worker claim from a queue; what runs goes on."""
        await self._run(manage.pause(name, reason))

    async def resume_queue(self, name: str) -> bool:
        """Let workers claim from a queue again. False: it was not paused."""
        return await self._run(admin.resume(name))

    # Maintenance ------------------------------------------------------------------

    async def sweep(self) -> list[str]:
        """Recover jobs whose worker is dead and mend what races may have left; the ids of recovered jobs.

        Workers do this by themselves.
        """
        return await self._perform(requests.sweep(self.liveness, self.config.max_active_secs, self.config.max_lost))

    async def vacuum(self) -> None:
        """VACUUM ANALYZE all tables."""
        with unhurried():
            await self._perform(requests.vacuum())

    async def truncate(self) -> None:
        """Delete every job, worker and queue; needs ``allow_truncate=True`` in the config."""
        await self._run(requests.truncate(allowed=self.config.allow_truncate))

    async def migrate(self) -> list[str]:
        """Create or update the tables; the names of the migrations that were applied."""
        return await self.executor.perform(self._migrating())

    async def schema_version(self) -> int:
        """Read the version of the tables; 0 when there are none."""
        return await self.executor.run(migrate.version())

    async def pending_migrations(self) -> list[str]:
        """Name the migrations that `migrate()` would apply. Changes nothing."""
        return await self.executor.run(requests.pending_migrations())


async def finish(value: Any) -> Any:
    """Await *value* if that is possible, else return it."""
    return await value if inspect.isawaitable(value) else value
