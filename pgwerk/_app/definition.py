"""An app as both of its faces know it: settings, names, hooks, the reading of calls."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgwerk._app.calls import Options, job_of, refuse_to_wait, split_call, with_defaults
from pgwerk._app.clock import new_id
from pgwerk._app.deadlines import unhurried
from pgwerk._app.ports import Place, place_of
from pgwerk._core import agenda
from pgwerk._core.dsn import checked
from pgwerk._core.enqueue_options import Defaults, params_of
from pgwerk._core.enqueueing import Draft, Hook, draft
from pgwerk._core.job import Job
from pgwerk._core.middleware import Middleware
from pgwerk._core.names import Names, literal
from pgwerk._core.operation import Procedure, ask
from pgwerk._core.operations import migrate
from pgwerk._core.operations.enqueue import NewJob
from pgwerk._core.options import EnqueueParams
from pgwerk._core.payload import JSONSerializer, Serializer, decode_or_stand_in
from pgwerk._core.procedures import enqueue
from pgwerk._core.schema import migrations
from pgwerk.config import WerkConfig, configured, resolved_dsn
from pgwerk.errors import ConfigError, EnqueueError


@dataclass
class State:
    """How far an app is, on whichever face that happened."""

    migrated: bool = False
    connected: bool = False
    """The startup hooks have run, and the shutdown hooks have not."""

    def begin(self) -> bool:
        """Return True exactly once: the caller must run the startup hooks."""
        before, self.connected = self.connected, True
        return not before

    def end(self) -> bool:
        """Return True exactly once: the caller must run the shutdown hooks."""
        before, self.connected = self.connected, False
        return before


class App:
    """Everything about an app that needs no database; both faces hold the same one."""

    def __init__(
        self,
        *,
        dsn: str | None = None,
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
        pool_timeout: float | None = None,
    ) -> None:
        self.config = configured(
            config, schema=schema, prefix=prefix, max_active_secs=max_active_secs, pool=pool, pool_timeout=pool_timeout
        )
        self.names = Names(self.config.schema, self.config.prefix, self.config.ephemeral_tables)
        self.dsn = resolved_dsn(dsn)
        self.place = place_of(self.dsn)
        if listen_dsn and self.place is Place.MEMORY:
            raise ConfigError("listen_dsn is for Postgres behind a pooler: memory:// notifies by itself, leave it out")
        self.listen_dsn = checked(listen_dsn, os.environ) if listen_dsn else None
        self.auto_migrate = auto_migrate
        if serializer is not None and not isinstance(serializer, Serializer):
            raise ConfigError(f"serializer={serializer!r}: it must be a Serializer, such as JSONSerializer()")
        self.serializer: Serializer = serializer or JSONSerializer()
        self.defaults = Defaults(
            self.serializer,
            self.config.default_retry_backoff,
            self.config.result_ttl,
            self.config.failure_ttl,
            self.config.max_payload_bytes,
        )
        self.startup: list[Callable[..., Any]] = []
        self.shutdown: list[Callable[..., Any]] = []
        self.before_enqueue: list[Hook] = []
        self.middleware: list[Middleware] = []
        self.state = State()
        self.shared: dict[str, Any] = {}
        """What the backends of both faces have in common."""
        self.faces: dict[str, Any] = {}
        """The synchronous and the asyncio app, as far as they were asked for; the original is the first."""
        if any(value is not None for value in (log_level, log_format, log_color, log_fmt)):
            from pgwerk.logs import configure_logging  # noqa: PLC0415  # only when asked for

            configure_logging(level=log_level, format=log_format, color=log_color, fmt=log_fmt)

    @property
    def liveness(self) -> float:
        """Seconds until a silent worker counts as dead."""
        return agenda.LIVENESS * self.config.heartbeat_interval

    def forked_from_a_worker(self) -> None:
        """Take note that this process is a worker's child: the tables are checked, its own hooks have not run."""
        self.state.migrated, self.state.connected = True, False

    def resolved_dsn(self) -> str:
        """The DSN to connect to; starts or joins an embedded server, which takes a moment."""
        if self.place is not Place.EMBEDDED:
            return self.dsn
        from pgwerk import embedded  # noqa: PLC0415  # an extra

        return embedded.resolve(self.dsn)

    @property
    def where(self) -> str:
        """Where the database is, without a password."""
        if self.place is not Place.POSTGRES:
            return self.dsn
        from pgwerk._postgres.driver import shown_dsn  # noqa: PLC0415  # imports the driver

        return shown_dsn(self.dsn)

    def __repr__(self) -> str:
        return f"{self.where}, schema {self.config.schema or 'public'!r}, prefix {self.config.prefix!r}"

    def migration_sql(self, since: int = 0) -> str:
        """Write what `migrate()` does as a script for psql, without the migrations up to version *since*."""
        if self.place is Place.MEMORY:
            raise ConfigError("memory:// has no tables: a script to create them is for Postgres")
        names = self.names
        steps = [names.render("create schema if not exists {schema};", with_params=False)] if names.schema else []
        for migration in migrations():
            if migration.version > since:
                row = f"({migration.version}, {literal(migration.name)})"
                text = f"-- {migration.label}\n{migration.sql.strip()}\n"
                text += f"insert into {{versions}} (version, name) values {row};"  # noqa: S608  # a name of ours, quoted
                steps.append(names.render(text, with_params=False))
        begin = "begin isolation level read committed read write;"
        return "\n\n".join([begin, *steps, "commit;"]) + "\n"

    # Calls ------------------------------------------------------------------------

    def draft(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Options) -> Draft:
        """Check a call; raises EnqueueError or SerializationError."""
        return draft(func, args, kwargs, options, self.defaults, new_id)

    def drafts(self, specs: Iterable[EnqueueParams]) -> Iterable[Draft]:
        """Check the jobs of a bulk: all of them before a hook sees the first."""
        drafts = self._drafted(specs)
        return list(drafts) if self.before_enqueue else drafts

    def _drafted(self, specs: Iterable[EnqueueParams]) -> Iterator[Draft]:
        for index, spec in enumerate(specs):
            if not isinstance(spec, EnqueueParams):
                raise EnqueueError(f"enqueue_many() takes EnqueueParams; number {index} is {spec!r}")
            options = with_defaults(spec.func, params_of(spec))
            yield self.draft(spec.func, tuple(spec.args), spec.kwargs, options)

    def calls(
        self, func: Any, iter_kwargs: Iterable[Mapping[str, Any]], shared: Mapping[str, Any]
    ) -> list[tuple[Draft, Options]]:
        """Check the calls of a map, each with its options."""
        calls = []
        for each in iter_kwargs:
            given, own = split_call({**shared, **each})
            refuse_to_wait("map", given)
            options = with_defaults(func, given)
            calls.append((self.draft(func, (), own, options), options))
        return calls

    def inserting(self, new_jobs: Sequence[NewJob], *, joined: bool) -> Procedure[list[Job | None]]:
        """Insert jobs. *joined*: in a transaction of the caller's."""
        inserted = yield from enqueue.enqueue_all(new_jobs, joined=joined)
        return [job_of(new_job, row) for new_job, row in zip(new_jobs, inserted, strict=True)]

    def decode(self, text: str) -> Any:
        """Read a stored payload or result."""
        return decode_or_stand_in(self.serializer, text)

    # The tables -------------------------------------------------------------------

    def preparing(self) -> Procedure[None]:
        """Create or check the tables."""
        # Read first: a role without the right to create can use tables that are up to date.
        found = yield from ask(migrate.version())
        if self.auto_migrate and found < migrate.latest():
            with unhurried():
                _ = yield from ask(migrate.migrate())
        else:
            _ = yield from ask(migrate.check())
        self.state.migrated = True

    def migrating(self) -> Procedure[list[str]]:
        """Create or update the tables; the names of what was applied."""
        with unhurried():
            applied = yield from ask(migrate.migrate())
        self.state.migrated = True
        return applied
