"""What the synchronous and the asyncio app have in common: settings, names, tasks, hooks, reading of calls."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pgwerk._clock import new_id
from pgwerk._core import agenda
from pgwerk._core.ids import normal_id
from pgwerk._core.job import FailureMode, Job, JobStatus
from pgwerk._core.operations.enqueue import Order
from pgwerk._core.options import EnqueueParams
from pgwerk._core.ordering import OPTIONS, Habits, Hook, order, params_of, split_options
from pgwerk._core.payload import JSONSerializer, Serializer, decode_or_stand_in
from pgwerk._core.schema import migrations
from pgwerk._core.statements.columns import INSERTED, JSON_COLUMNS
from pgwerk._core.statements.enqueue import Inserted
from pgwerk._core.statements.queries import Filter
from pgwerk._names import Names, literal
from pgwerk.config import WerkConfig, configured, resolved_dsn
from pgwerk.errors import ConfigError, EnqueueError, JobNotFound


class Application:
    """Everything about an app that needs no database."""

    def __init__(
        self,
        dsn: str | None = None,
        *,
        config: WerkConfig | Mapping[str, Any] | None = None,
        schema: str | None = None,
        prefix: str | None = None,
        serializer: Serializer | None = None,
        max_active_secs: float | None = None,
        log_level: int | str | None = None,
        log_format: str | None = None,
        log_color: bool | None = None,
        log_fmt: str | None = None,
        auto_migrate: bool = True,
        pool: bool | None = None,
        listen_dsn: str | None = None,
    ) -> None:
        self.config = configured(config, schema=schema, prefix=prefix, max_active_secs=max_active_secs, pool=pool)
        self.names = Names(self.config.schema, self.config.prefix, self.config.ephemeral_tables)
        self.dsn = resolved_dsn(dsn)
        self.listen_dsn = listen_dsn
        self.auto_migrate = auto_migrate
        if serializer is not None and not isinstance(serializer, Serializer):
            raise ConfigError(f"serializer={serializer!r}: it must be a Serializer, such as JSONSerializer()")
        self.serializer: Serializer = serializer or JSONSerializer()
        self.habits = Habits(
            self.serializer,
            self.config.default_retry_backoff,
            self.config.result_ttl,
            self.config.failure_ttl,
            self.config.max_payload_bytes,
        )
        self._startup: list[Callable[..., Any]] = []
        self._shutdown: list[Callable[..., Any]] = []
        self._before_enqueue: list[Hook] = []
        if any(value is not None for value in (log_level, log_format, log_color, log_fmt)):
            from pgwerk.logs import configure_logging  # noqa: PLC0415  # only when asked for

            configure_logging(level=log_level, format=log_format, color=log_color, fmt=log_fmt)

    @property
    def liveness(self) -> float:
        """Seconds until a silent worker counts as dead."""
        return agenda.LIVENESS * self.config.heartbeat_interval

    def migration_sql(self, since: int = 0) -> str:
        """Write what `migrate()` does as a script for psql, without the migrations up to version *since*."""
        names = self.names
        steps = [names.render("create schema if not exists {schema};", with_params=False)] if names.schema else []
        for migration in migrations():
            if migration.version > since:
                row = f"({migration.version}, {literal(migration.name)})"
                text = f"-- {migration.label}\n{migration.sql.strip()}\n"
                text += f"insert into {{versions}} (version, name) values {row};"  # noqa: S608  # a name of ours, quoted
                steps.append(names.render(text, with_params=False))
        return "\n\n".join(["begin;", *steps, "commit;"]) + "\n"

    # Hooks ------------------------------------------------------------------------

    def on_startup(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Call *func* (without arguments) on the first connect(); usable as a decorator."""
        self._startup.append(func)
        return func

    def on_shutdown(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Call *func* (without arguments) on disconnect(); usable as a decorator."""
        self._shutdown.append(func)
        return func

    def register_before_enqueue(self, callback: Hook) -> None:
        """Call *callback* with each `Job` before it is inserted; it may change it, and an error enqueues nothing."""
        self._before_enqueue.append(callback)

    def unregister_before_enqueue(self, callback: Hook) -> None:
        """Take back `register_before_enqueue`; raises ValueError when it was not registered."""
        self._before_enqueue.remove(callback)

    # Calls ------------------------------------------------------------------------

    def _order(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Order, dict[str, Any]]:
        options, own = split_options(kwargs, frozenset({"conn", "sync"}))
        return self._order_with(func, args, own, options), options

    def _order_with(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
    ) -> Order:
        defaults = getattr(func, "__pgwerk_options__", None)
        if defaults:
            options = {**defaults, **{k: v for k, v in options.items() if v is not None}}
        return order(func, args, kwargs, options, self.habits, new_id, tuple(self._before_enqueue))

    def _orders(self, specs: Iterable[EnqueueParams]) -> list[Order]:
        orders = []
        for index, spec in enumerate(specs):
            if not isinstance(spec, EnqueueParams):
                raise EnqueueError(f"enqueue_many() takes EnqueueParams; number {index} is {spec!r}")
            orders.append(self._order_with(spec.func, tuple(spec.args), dict(spec.kwargs), params_of(spec)))
        return orders

    def _job(self, order: Order, inserted: Inserted) -> Job:
        """The job that an order became, without reading it back."""
        values = {name: value for name, value in order.values.items() if name in INSERTED and name != "wait_delay"}
        for name in JSON_COLUMNS & values.keys():
            values[name] = order.payload if name == "payload" else json.loads(values[name])
        if "failure_mode" in values:
            values["failure_mode"] = FailureMode(values["failure_mode"])
        values["status"] = inserted.status
        values["scheduled_at"] = inserted.scheduled_at
        values["enqueued_at"] = inserted.enqueued_at
        return Job.of(values)

    def decode(self, text: str) -> Any:
        return decode_or_stand_in(self.serializer, text)


def job_id(value: object) -> str:
    """The id of a job given as itself, a string or a UUID; raises JobNotFound for what cannot be one."""
    if isinstance(value, Job):
        return value.id
    found = normal_id(value)
    if found is None:
        raise JobNotFound(value)
    return found


def names_of(value: Any) -> tuple[str, ...]:
    """One or several names, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def statuses_of(value: Any) -> tuple[str, ...]:
    """One or several statuses, checked."""
    found = names_of(value)
    for name in found:
        if name not in set(JobStatus):
            raise ValueError(
                f"{name!r} is no status of a job; there are {', '.join(status.value for status in JobStatus)}"
            )
    return tuple(str(JobStatus(name)) for name in found)


def ended_statuses(value: Any) -> tuple[str, ...]:
    """One or several statuses, all of them terminal."""
    found = statuses_of(value)
    for name in found:
        if not JobStatus(name).terminal:
            raise ValueError(f"only ended jobs can be purged (complete, failed, aborted), not {name!r}")
    return found


def job_filter(**wanted: Any) -> Filter:
    """A `Filter` from the arguments of list_jobs."""
    before = wanted.pop("before", None)
    worker_id = wanted.pop("worker_id", None)
    return Filter(
        queues=names_of(wanted.pop("queue", None)),
        statuses=statuses_of(wanted.pop("status", None)),
        functions=names_of(wanted.pop("function", None)),
        worker_id=job_id(worker_id) if worker_id is not None else None,
        before=job_id(before) if before is not None else None,
        **wanted,
    )


__all__ = ["OPTIONS", "Application"]
