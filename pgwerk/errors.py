"""Every exception pgwerk raises.

Each one is also the builtin it resembles, so ``except LookupError`` works too::

    WerkError
    ├── JobNotFound (LookupError)             no such job, or a malformed id
    ├── ScheduleNotFound (LookupError)        no schedule of that name
    ├── HandlerNotFound (ImportError)         no function behind a job's dotted path
    ├── JobError                              a job did not succeed; carries .job
    │   └── DependencyFailed                  … because a job it depends on failed
    ├── JobTimeout (TimeoutError)             a handler, or a wait for one, took too long
    ├── JobAborted                            raised inside a handler that was asked to stop
    ├── EnqueueError (ValueError)             a job that cannot be accepted; nothing was written
    ├── SerializationError (TypeError)        a value that cannot be stored
    ├── ConfigError (ValueError)              a setting or DSN that cannot be used
    ├── SchemaVersionMismatch (RuntimeError)  the tables are missing, too old or too new
    ├── ConnectionFailed (ConnectionError)    Postgres does not answer, or went away
    ├── DatabaseError (RuntimeError)          Postgres refused a statement; carries .sqlstate
    └── WorkerShutdown                        raised inside a handler that is given back
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgwerk._core.job import Job

__all__ = [
    "ConfigError",
    "ConnectionFailed",
    "DatabaseError",
    "DependencyFailed",
    "EnqueueError",
    "HandlerNotFound",
    "JobAborted",
    "JobError",
    "JobNotFound",
    "JobTimeout",
    "ScheduleNotFound",
    "SchemaVersionMismatch",
    "SerializationError",
    "WerkError",
    "WorkerShutdown",
]


class WerkError(Exception):
    """Base of all errors of this package."""


class JobNotFound(WerkError, LookupError):
    """No job has this id (or the id is not a UUID)."""

    def __init__(self, job_id: object) -> None:
        super().__init__(f"no job {str(job_id)!r}")
        self.job_id = str(job_id)

    def __reduce__(self) -> tuple[type["JobNotFound"], tuple[str]]:
        return type(self), (self.job_id,)


class ScheduleNotFound(WerkError, LookupError):
    """No schedule has this name."""


class HandlerNotFound(WerkError, ImportError):
    """No function can be imported by a job's dotted path."""


class JobError(WerkError):
    """A job failed or was aborted; `.job` is its last state."""

    def __init__(self, message: str, job: "Job | None" = None) -> None:
        super().__init__(message)
        self.job = job

    def __reduce__(self) -> "tuple[type[JobError], tuple[str, Job | None]]":
        return type(self), (str(self), self.job)


class DependencyFailed(JobError):
    """A job failed because one that it depends on did."""


class JobTimeout(WerkError, TimeoutError):
    """A handler ran past its timeout, or a job did not finish within the time waited for it."""


class JobAborted(WerkError):
    """Raised inside a handler whose job was aborted, at its next Python instruction."""


class EnqueueError(WerkError, ValueError):
    """A job that cannot be accepted; nothing was written."""


class SerializationError(WerkError, TypeError):
    """A value that the serializer, or Postgres, cannot store."""


class ConfigError(WerkError, ValueError):
    """A setting, DSN or APP path that cannot be used."""


class SchemaVersionMismatch(WerkError, RuntimeError):
    """The tables are missing, older or newer than this version of pgwerk understands."""


class ConnectionFailed(WerkError, ConnectionError):
    """Postgres does not answer, or the connection was lost.

    After a lost connection it is unknown whether the last statement took effect.
    """


class DatabaseError(WerkError, RuntimeError):
    """Postgres refused a statement; `.sqlstate` says why in its own code."""

    def __init__(self, message: str, sqlstate: str | None = None) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate

    def __reduce__(self) -> "tuple[type[DatabaseError], tuple[str, str | None]]":
        return type(self), (str(self), self.sqlstate)


class WorkerShutdown(WerkError):
    """Raised inside a handler whose worker stops before it finished; the job is given back."""
