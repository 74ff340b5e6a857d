"""What both faces of an app show without awaiting anything: its settings, its hooks, and the other face."""

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from pgwerk._app.definition import App
from pgwerk._core.enqueueing import Hook
from pgwerk._core.middleware import Middleware, checked
from pgwerk._core.payload import Serializer
from pgwerk.config import WerkConfig

if TYPE_CHECKING:
    from pgwerk.aio.app import Werk as AioWerk
    from pgwerk.sync.app import Werk as SyncWerk

M = TypeVar("M", bound=Middleware)


class Face:
    """A face of an app."""

    _app: App

    @classmethod
    def _of(cls, app: App) -> Self:
        """Make a face of an app that exists."""
        raise NotImplementedError

    def __repr__(self) -> str:
        kind = type(self)
        # Where it is imported from, which is not where it is defined.
        module = {"pgwerk.sync.app": "pgwerk", "pgwerk.aio.app": "pgwerk.aio"}.get(kind.__module__, kind.__module__)
        return f"<{module}.{kind.__qualname__} {self._app!r}>"

    # Settings ---------------------------------------------------------------------

    @property
    def config(self) -> WerkConfig:
        """All settings."""
        return self._app.config

    @property
    def dsn(self) -> str:
        """Where the database is, as it was given; it may hold a password."""
        return self._app.dsn

    @property
    def where(self) -> str:
        """Where the database is, without a password."""
        return self._app.where

    @property
    def schema(self) -> str:
        """The schema of the tables; empty for unqualified names."""
        return self._app.names.schema

    @property
    def prefix(self) -> str:
        """What the names of the tables begin with."""
        return self._app.names.prefix

    @property
    def serializer(self) -> Serializer:
        """What encodes arguments and results."""
        return self._app.serializer

    def migration_sql(self, since: int = 0) -> str:
        """Write what `migrate()` does as a script for psql, without the migrations up to version *since*."""
        return self._app.migration_sql(since)

    # Hooks ------------------------------------------------------------------------

    def on_startup(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Call *func* (without arguments), or await it, on the first connect(); usable as a decorator."""
        self._app.startup.append(func)
        return func

    def on_shutdown(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Call *func* (without arguments), or await it, on disconnect(); usable as a decorator."""
        self._app.shutdown.append(func)
        return func

    def register_before_enqueue(self, callback: Hook) -> None:
        """Call *callback* with each `Job` before it is inserted; it may change it, and an error enqueues nothing.

        It may be a coroutine function; the synchronous app runs it on a loop of its own thread.
        """
        self._app.before_enqueue.append(callback)

    def unregister_before_enqueue(self, callback: Hook) -> None:
        """Take back `register_before_enqueue`; raises ValueError when it was not registered."""
        self._app.before_enqueue.remove(callback)

    def middleware(self, func: M) -> M:
        """Run *func* around every job, in every kind of worker; usable as a decorator.

        It is called as ``func(ctx, call_next)``: ``call_next()`` runs the job and returns its result, or raises; what
        *func* returns or raises is what happened. A coroutine function awaits ``call_next()``. The first registered is
        outermost. Register where the app is defined, so that every worker's process does. Raises ConfigError.
        """
        self._app.middleware.append(checked(func))
        return func

    # The other face ---------------------------------------------------------------

    @property
    def aio(self) -> "AioWerk":
        """This app for asyncio: a `pgwerk.aio.Werk` with the same settings and hooks, and connections of its own."""
        return cast("AioWerk", face_of(self._app, "aio"))

    @property
    def sync(self) -> "SyncWerk":
        """This app without asyncio: a `pgwerk.Werk` with the same settings and hooks, and connections of its own."""
        return cast("SyncWerk", face_of(self._app, "sync"))


def face_of(app: App, name: str) -> Face:
    """A face of an app by its package's name, made at first use: neither package imports the other."""
    found: Face | None = app.faces.get(name)
    if found is None:
        made = import_module(f"pgwerk.{name}.app").Werk._of(app)  # noqa: SLF001  # ours
        # By setdefault, which is atomic: threads may meet here.
        found = app.faces.setdefault(name, made)
    assert found is not None
    return found
