"""The same names for asyncio: `await app.enqueue(…)`, `async with app`, `await worker.run()`.

Values, options and errors are those of `pgwerk` itself. Names are imported when they are used first: importing this
package imports no driver and no event loop.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgwerk._core.context import Context as Context
    from pgwerk._core.job import DequeueStrategy as DequeueStrategy
    from pgwerk._core.job import ExecutionStatus as ExecutionStatus
    from pgwerk._core.job import FailureMode as FailureMode
    from pgwerk._core.job import Job as Job
    from pgwerk._core.job import JobExecution as JobExecution
    from pgwerk._core.job import JobStatus as JobStatus
    from pgwerk._core.options import Callback as Callback
    from pgwerk._core.options import Dependency as Dependency
    from pgwerk._core.options import EnqueueParams as EnqueueParams
    from pgwerk._core.options import Group as Group
    from pgwerk._core.options import Repeat as Repeat
    from pgwerk._core.options import Retry as Retry
    from pgwerk._core.payload import JSONSerializer as JSONSerializer
    from pgwerk._core.payload import PickleSerializer as PickleSerializer
    from pgwerk._core.payload import Serializer as Serializer
    from pgwerk._core.payload import TypedJSONSerializer as TypedJSONSerializer
    from pgwerk._core.statements.queries import QueueStats as QueueStats
    from pgwerk._core.statements.workers import WorkerInfo as WorkerInfo
    from pgwerk._handlers.run import shield as shield
    from pgwerk._version import __version__ as __version__
    from pgwerk.aio.app import Werk as Werk
    from pgwerk.config import WerkConfig as WerkConfig
    from pgwerk.errors import ConfigError as ConfigError
    from pgwerk.errors import ConnectionFailed as ConnectionFailed
    from pgwerk.errors import DatabaseError as DatabaseError
    from pgwerk.errors import DependencyFailed as DependencyFailed
    from pgwerk.errors import EnqueueError as EnqueueError
    from pgwerk.errors import HandlerNotFound as HandlerNotFound
    from pgwerk.errors import JobAborted as JobAborted
    from pgwerk.errors import JobError as JobError
    from pgwerk.errors import JobNotFound as JobNotFound
    from pgwerk.errors import JobTimeout as JobTimeout
    from pgwerk.errors import ScheduleNotFound as ScheduleNotFound
    from pgwerk.errors import SchemaVersionMismatch as SchemaVersionMismatch
    from pgwerk.errors import SerializationError as SerializationError
    from pgwerk.errors import WerkError as WerkError
    from pgwerk.errors import WorkerShutdown as WorkerShutdown
    from pgwerk.logs import configure_logging as configure_logging
    from pgwerk.workers.awaitable import AsyncWorker as AsyncWorker
    from pgwerk.workers.awaitable import ForkWorker as ForkWorker
    from pgwerk.workers.awaitable import ProcessWorker as ProcessWorker
    from pgwerk.workers.awaitable import ThreadWorker as ThreadWorker
    from pgwerk.workers.awaitable import Worker as Worker

_HOMES = {
    "pgwerk._core.context": ("Context",),
    "pgwerk._core.job": ("DequeueStrategy", "ExecutionStatus", "FailureMode", "Job", "JobExecution", "JobStatus"),
    "pgwerk._core.options": ("Callback", "Dependency", "EnqueueParams", "Group", "Repeat", "Retry"),
    "pgwerk._core.payload": ("JSONSerializer", "PickleSerializer", "Serializer", "TypedJSONSerializer"),
    "pgwerk._core.statements.queries": ("QueueStats",),
    "pgwerk._core.statements.workers": ("WorkerInfo",),
    "pgwerk._version": ("__version__",),
    "pgwerk.config": ("WerkConfig",),
    "pgwerk.errors": (
        "ConfigError", "ConnectionFailed", "DatabaseError", "DependencyFailed", "EnqueueError", "HandlerNotFound",
        "JobAborted", "JobError", "JobNotFound", "JobTimeout", "ScheduleNotFound", "SchemaVersionMismatch",
        "SerializationError", "WerkError", "WorkerShutdown",
    ),
    "pgwerk.logs": ("configure_logging",),
    "pgwerk.aio.app": ("Werk",),
    "pgwerk._handlers.run": ("shield",),
    "pgwerk.workers.awaitable": ("AsyncWorker", "ForkWorker", "ProcessWorker", "ThreadWorker", "Worker"),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncWorker",
    "Callback",
    "ConfigError",
    "ConnectionFailed",
    "Context",
    "DatabaseError",
    "Dependency",
    "DependencyFailed",
    "DequeueStrategy",
    "EnqueueError",
    "EnqueueParams",
    "ExecutionStatus",
    "FailureMode",
    "ForkWorker",
    "Group",
    "HandlerNotFound",
    "JSONSerializer",
    "Job",
    "JobAborted",
    "JobError",
    "JobExecution",
    "JobNotFound",
    "JobStatus",
    "JobTimeout",
    "PickleSerializer",
    "ProcessWorker",
    "QueueStats",
    "Repeat",
    "Retry",
    "ScheduleNotFound",
    "SchemaVersionMismatch",
    "SerializationError",
    "Serializer",
    "ThreadWorker",
    "TypedJSONSerializer",
    "Werk",
    "WerkConfig",
    "WerkError",
    "Worker",
    "WorkerInfo",
    "WorkerShutdown",
    "__version__",
    "configure_logging",
    "shield",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'pgwerk.aio' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
