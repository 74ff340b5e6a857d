"""Looking at jobs, queues and workers with the asyncio app, and acting on them: one line for each question."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pgwerk._app import requests
from pgwerk._app.deadlines import unhurried
from pgwerk._app.faces import Face
from pgwerk._core.job import Job, JobExecution
from pgwerk._core.operations import manage, migrate
from pgwerk._core.procedures import bulk
from pgwerk._core.statements import admin, queries, schema, workers
from pgwerk._core.statements.queries import QueueStats
from pgwerk._core.statements.workers import WorkerInfo
from pgwerk.aio.runtime import Runtime


class Managing(Face):
    """What an app does to look at things and to act on them."""

    _runtime: Runtime

    # Inspecting -------------------------------------------------------------------

    async def get_job(self, job: Job | str) -> Job:
        """Read a job; raises JobNotFound."""
        return await self._runtime.run(requests.get_job(job, self._app.decode))

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
            self._app.decode, limit, offset, queue=queue, status=status, worker_id=worker_id, search=search,
            schedule_name=schedule_name, retried=retried, function=function, before=before,
        )  # fmt: skip
        return await self._runtime.run(wanted)

    async def get_executions(self, job: Job | str) -> list[JobExecution]:
        """List the attempts at a job, oldest first."""
        return await self._runtime.run(requests.get_executions(job, self._app.decode))

    async def get_job_dependencies(self, job: Job | str) -> list[str]:
        """List the ids of the jobs that a job depends on."""
        return await self._runtime.run(requests.get_job_dependencies(job))

    async def get_queue_stats(self) -> list[QueueStats]:
        """Count jobs by queue and status. Reads the whole table."""
        with unhurried():
            return await self._runtime.run(queries.queue_stats())

    async def list_workers(self) -> list[WorkerInfo]:
        """List workers, the living first."""
        return await self._runtime.run(workers.roster())

    # Managing ---------------------------------------------------------------------

    async def cancel_job(self, job: Job | str) -> bool:
        """Abort a job that has not started. False: it has, or is unknown."""
        return await self._runtime.run(requests.cancel_job(job))

    async def abort_job(self, job: Job | str) -> bool:
        """Abort a job, also one that runs: its handler is interrupted. False: it has ended, or is unknown."""
        return await self._runtime.perform(requests.abort_job(job))

    async def requeue_job(self, job: Job | str) -> bool:
        """Queue a failed or aborted job again, with as many attempts as it had at first. False: it is neither."""
        return await self._runtime.run(requests.requeue_job(job))

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
        steps = requests.update_job(id_or_key, self._app.decode, at=at, delay=delay, priority=priority, meta=meta)
        return await self._runtime.perform(steps)

    async def delete_job(self, job: Job | str) -> None:
        """Delete a job's row in whatever state it is; those that wait for it end or go on. Raises JobNotFound."""
        await self._runtime.perform(requests.delete_job(job))

    async def touch_job(self, job: Job | str) -> None:
        """Renew the heartbeat of a running job; raises JobNotFound when none runs."""
        await self._runtime.run(requests.touch_job(job))

    async def bulk_requeue_jobs(self, queue: str | None = None, function_name: str | None = None) -> int:
        """Queue failed and aborted jobs again, of one queue or function or all; how many."""
        with unhurried():
            return await self._runtime.perform(bulk.requeue_all(queue, function_name))

    async def bulk_cancel_jobs(self, queue: str | None = None) -> int:
        """Abort jobs that have not started, of one queue or all; how many."""
        with unhurried():
            return await self._runtime.perform(bulk.cancel_all(queue))

    async def purge_jobs(self, statuses: str | Sequence[str] = ("complete",), older_than_days: float = 30) -> int:
        """Delete jobs in these statuses that ended this many days ago or earlier, in batches; returns how many."""
        with unhurried():
            return await self._runtime.perform(requests.purge_jobs(statuses, older_than_days))

    async def pause_queue(self, name: str, reason: str | None = None) -> None:
        """Let no worker claim from a queue; what runs goes on."""
        await self._runtime.run(manage.pause(name, reason))

    async def resume_queue(self, name: str) -> bool:
        """Let workers claim from a queue again. False: it was not paused."""
        return await self._runtime.run(admin.resume(name))

    # Maintenance ------------------------------------------------------------------

    async def sweep(self) -> list[str]:
        """Recover jobs whose worker is dead and mend what races may have left; the ids of recovered jobs.

        Workers do this by themselves.
        """
        config = self._app.config
        return await self._runtime.perform(requests.sweep(self._app.liveness, config.max_active_secs, config.max_lost))

    async def vacuum(self) -> None:
        """VACUUM ANALYZE all tables."""
        with unhurried():
            await self._runtime.perform(requests.vacuum())

    async def truncate(self) -> None:
        """Delete every job, worker and queue; needs ``allow_truncate=True`` in the config."""
        await self._runtime.run(requests.truncate(allowed=self._app.config.allow_truncate))

    async def migrate(self) -> list[str]:
        """Create or update the tables; the names of the migrations that were applied."""
        return await self._runtime.backend.perform(self._app.migrating())

    async def server_version(self) -> str:
        """Read the version of the database server, such as "15.4"."""
        return await self._runtime.backend.run(schema.server_version())

    async def schema_version(self) -> int:
        """Read the version of the tables; 0 when there are none."""
        return await self._runtime.backend.run(migrate.version())

    async def pending_migrations(self) -> list[str]:
        """Name the migrations that `migrate()` would apply. Changes nothing."""
        return await self._runtime.backend.run(requests.pending_migrations())
