"""What a handler may know about its own run."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pgwerk._core.job import Job


@dataclass
class Context:
    """Given to a handler whose first parameter is named ctx or annotated Context, and to hooks."""

    app: Any
    """The connected app."""
    worker: Any
    """The worker that runs the job; its `id`, `name` and `queues` are the same in every kind of worker."""
    job: Job
    exception: BaseException | None = None
    """What the handler raised; in after_process hooks."""
    deadline: datetime | None = None
    """When the job's timeout is over; None without one."""
    log: Any = field(default_factory=lambda: logging.getLogger("pgwerk.job"), repr=False)
    """A logger that names the job."""
    _report: Callable[[float, str | None], None] | None = field(default=None, repr=False)
    _is_stopping: Callable[[], bool] | None = field(default=None, repr=False)

    def progress(self, fraction: float, message: str | None = None) -> None:
        """Store how far the job is (0 to 1), for people to see; also renews its heartbeat."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"progress({fraction!r}): it must be from 0 to 1")
        self.job.progress = {"fraction": fraction, "message": message}
        if self._report is not None:
            self._report(fraction, message)

    @property
    def stopping(self) -> bool:
        """Whether the worker is shutting down or the job is being aborted: a good moment to save and return."""
        return self._is_stopping() if self._is_stopping is not None else False
