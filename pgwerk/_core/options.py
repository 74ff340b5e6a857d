"""The values people pass to enqueue: validated once, frozen after.

Durations are seconds. Each class raises ValueError for what makes no sense, so a wrong policy fails where it stands.
"""

import math
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Literal, TypeAlias, TypedDict

from pgwerk._core.job import FailureMode, Job

MAX_SECONDS = 10 * 365.25 * 86400
"""Ten years: the longest delay, timeout or retention that is accepted."""
MAX_ATTEMPTS = 1_000_000

Seconds: TypeAlias = float | timedelta
"""A duration: a number of seconds, or a timedelta."""


def seconds(name: str, value: object, *, least: float = 0.0, positive: bool = False) -> float:
    """Read a duration (a number of seconds or a timedelta), or raise ValueError naming *name*."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} takes a number of seconds or a timedelta, not {value!r}")
    if not math.isfinite(value) or value < least or value > MAX_SECONDS or (positive and value <= 0):
        bound = "greater than 0" if positive else f"at least {least:g}"
        raise ValueError(f"{name}={value!r} is out of range: it must be {bound} and at most ten years")
    return float(value)


def whole(name: str, value: object, least: int, most: int) -> int:
    """Read a whole number between two bounds, or raise ValueError naming *name*."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} takes a whole number, not {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name}={value} is out of range: it must be from {least} to {most}")
    return value


def aware(value: datetime | None) -> datetime | None:
    """Take a naive time as UTC."""
    return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


def due(name: str, value: object) -> datetime:
    """Read a time at which a job may run, or raise ValueError naming *name*."""
    if not isinstance(value, datetime):
        raise ValueError(f"{name} takes a datetime, not {value!r}")
    if not 1900 <= value.year <= 9000:
        # Beyond these, a time zone or a ttl leads to times that Postgres has and Python has not.
        raise ValueError(f"{name}={value.isoformat()} is out of range: its year must be from 1900 to 9000")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


def _intervals(name: str, value: object) -> tuple[float, ...]:
    items = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    if not items:
        raise ValueError(f"{name} is empty: give at least one number of seconds")
    return tuple(seconds(name, item) for item in items)


@dataclass(frozen=True)
class Retry:
    """Try up to *max* times in total, waiting *intervals* seconds between attempts.

    The last interval repeats; no intervals means at once. An error of a class in *no_retry*
    (or a subclass) fails the job at its first occurrence. The death of its worker spends no attempt: up to *lost*
    times (None: `WerkConfig.max_lost`) it runs again, then it fails; `Retry(1, lost=0)` runs at most once.
    """

    max: int
    intervals: float | Sequence[float] = (0.0,)
    no_retry: tuple[type[BaseException], ...] = ()
    lost: int | None = None

    def __post_init__(self) -> None:
        if self.lost is not None:
            object.__setattr__(self, "lost", whole("Retry(lost)", self.lost, 0, MAX_ATTEMPTS))
        object.__setattr__(self, "max", whole("Retry(max)", self.max, 1, MAX_ATTEMPTS))
        object.__setattr__(self, "intervals", _intervals("Retry(intervals)", self.intervals))
        given: Any = self.no_retry
        kinds = tuple(given) if isinstance(given, tuple | list) else (given,)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ValueError(f"Retry(no_retry) takes exception classes, not {kind!r}")
        object.__setattr__(self, "no_retry", kinds)


@dataclass(frozen=True)
class Repeat:
    """Run again *times* more after the first success, *interval* (or *intervals*) seconds apart."""

    times: int
    interval: float | timedelta = 0.0
    intervals: Sequence[float] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", whole("Repeat(times)", self.times, 1, MAX_ATTEMPTS))
        object.__setattr__(self, "interval", seconds("Repeat(interval)", self.interval))
        if self.intervals is not None:
            object.__setattr__(self, "intervals", _intervals("Repeat(intervals)", self.intervals))
            _ = whole("Repeat(times) with intervals", self.times, 1, 10_000)


@dataclass(frozen=True)
class Callback:
    """A function (or its dotted path) to run when a job has ended, with a timeout of its own in seconds."""

    func: Callable[..., Any] | str
    timeout: float | timedelta | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None:
            object.__setattr__(self, "timeout", seconds("Callback(timeout)", self.timeout, positive=True))


@dataclass(frozen=True)
class Dependency:
    """A job (or its id) that must finish first; with *allow_failure* it may also fail or be aborted."""

    job: Job | str
    allow_failure: bool = False

    @property
    def id(self) -> str:
        """The id of the job depended on."""
        return self.job.id if isinstance(self.job, Job) else str(self.job)


@dataclass(frozen=True)
class Group:
    """At most *limit* jobs with this *key* are active at once, in the whole installation."""

    key: str
    limit: int = 1

    def __post_init__(self) -> None:
        key: Any = self.key
        if not isinstance(key, str) or not key:
            raise ValueError(f"Group(key) takes a non-empty string, not {self.key!r}")
        object.__setattr__(self, "limit", whole("Group(limit)", self.limit, 1, 10_000))


CallbackLike: TypeAlias = Callback | Callable[..., Any] | str
"""A function to call when a job has ended, its dotted path, or a `Callback`."""
DependsOn: TypeAlias = Job | str | Dependency | Sequence[Job | str | Dependency] | AbstractSet[Job | str | Dependency]
"""Jobs to wait for: one or several, as jobs, ids or `Dependency`."""
FailureModeLike: TypeAlias = FailureMode | Literal["hold", "delete"]


@dataclass(frozen=True)
class EnqueueParams:
    """One job of `enqueue_many`: the options of `enqueue`, without their underscores."""

    func: Callable[..., Any] | str
    args: Sequence[Any] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    queue: str | None = None
    priority: int | None = None
    delay: Seconds | None = None
    at: datetime | None = None
    retry: Retry | int | None = None
    timeout: Seconds | None = None
    heartbeat: Seconds | None = None
    key: str | None = None
    group: Group | str | None = None
    meta: dict[str, Any] | None = None
    result_ttl: Seconds | None = None
    failure_ttl: Seconds | None = None
    ttl: Seconds | None = None
    on_success: CallbackLike | None = None
    on_failure: CallbackLike | None = None
    on_stopped: CallbackLike | None = None
    repeat: Repeat | None = None
    depends_on: DependsOn | None = None
    failure_mode: FailureModeLike | None = None
    schedule_name: str | None = None


def _made_quickly(cls: type[EnqueueParams]) -> None:
    """Let a bulk entry hold what was given; the defaults of the rest are those of the class.

    A frozen dataclass sets two dozen attributes for each, one call after the other, which is as much work as all the
    rest of a bulk.
    """
    usual = cls.__init__

    @wraps(usual)
    def init(self: EnqueueParams, func: Any, args: Any = (), kwargs: Any = None, *more: Any, **options: Any) -> None:
        if more or not options.keys() <= known:
            usual(self, func, args, {} if kwargs is None else kwargs, *more, **options)
            return
        own = self.__dict__
        own["func"], own["args"], own["kwargs"] = func, args, {} if kwargs is None else kwargs
        if options:
            own.update(options)

    known = {one.name for one in fields(cls)}
    cls.__init__ = init  # type: ignore[method-assign]


_made_quickly(EnqueueParams)


class TaskOptions(TypedDict, total=False):
    """The options of a task's jobs: those of `enqueue` without their underscores. `key` makes another kind of task."""

    queue: str | None
    priority: int | None
    delay: Seconds | None
    at: datetime | None
    retry: Retry | int | None
    timeout: Seconds | None
    heartbeat: Seconds | None
    group: Group | str | None
    meta: dict[str, Any] | None
    result_ttl: Seconds | None
    failure_ttl: Seconds | None
    ttl: Seconds | None
    on_success: CallbackLike | None
    on_failure: CallbackLike | None
    on_stopped: CallbackLike | None
    repeat: Repeat | None
    depends_on: DependsOn | None
    failure_mode: FailureModeLike | None
    schedule_name: str | None
    conn: Any
    sync: bool | None
