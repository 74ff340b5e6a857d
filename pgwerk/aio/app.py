"""The asyncio app."""

from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from pgwerk._app.definition import App
from pgwerk._core.context import Context
from pgwerk._core.options import TaskOptions
from pgwerk._core.payload import Serializer
from pgwerk.aio.calling import Calling
from pgwerk.aio.hooks import finish
from pgwerk.aio.managing import Managing
from pgwerk.aio.runtime import Runtime
from pgwerk.aio.tasks import KeyedTaskDecorator, Task, TaskDecorator
from pgwerk.config import WerkConfig

if TYPE_CHECKING:
    from pgwerk._memory.clock import Clock

P = ParamSpec("P")
T = TypeVar("T")


class Werk(Calling, Managing):
    """A job queue in a Postgres database.

    Nothing is connected until the first use; any number of tasks and threads may share one, and a process that forks
    may go on using it on both sides. *dsn* None reads PGWERK_DSN, then DATABASE_URL. *schema* "public" or "" means
    unqualified names. Raises ConfigError for what cannot be a setting.
    """

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
        pool_timeout: float | None = None,
    ) -> None:
        app = App(
            dsn=dsn, config=config, schema=schema, prefix=prefix, serializer=serializer,
            max_active_secs=max_active_secs, log_level=log_level, log_format=log_format, log_color=log_color,
            log_fmt=log_fmt, auto_migrate=auto_migrate, pool=pool, listen_dsn=listen_dsn, pool_timeout=pool_timeout,
        )  # fmt: skip
        self._hold(app)
        app.faces[Runtime.face] = self

    @classmethod
    def in_memory(cls, name: str = "", **settings: Any) -> Self:
        """Make an app whose jobs are in memory: ``Werk("memory://")``, or ``memory://name`` to share them.

        For tests and trials: everything but what needs other processes works, and all is gone with the process.
        *settings* are those of `Werk`.
        """
        return cls(f"memory://{name}", **settings)

    @classmethod
    def _of(cls, app: App) -> Self:
        face = cls.__new__(cls)
        face._hold(app)  # noqa: SLF001  # our own
        return face

    def _hold(self, app: App) -> None:
        self._app, self._runtime = app, Runtime(app)

    @property
    def clock(self) -> "Clock":
        """The clock of an in-memory app, which can be moved, frozen and set; raises ConfigError for Postgres."""
        from pgwerk._memory.backend import clock_of  # noqa: PLC0415  # only in memory

        return clock_of(self._app.place, self._app.dsn, self._app.shared)

    # Lifecycle --------------------------------------------------------------------

    async def connect(self) -> None:
        """Create or check the tables and run startup hooks; safe to call again. Optional: the first use does it."""
        await self._runtime.connect()
        if self._app.state.begin():
            for hook in self._app.startup:
                await finish(hook())

    async def disconnect(self) -> None:
        """Run shutdown hooks and close connections; the app may be used again.

        On event loops: closes this event loop's connections only; other loops must call disconnect() themselves.
        """
        if self._app.state.end():
            for hook in self._app.shutdown:
                await finish(hook())
        await self._runtime.close()

    close = disconnect

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

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
    def task(self, /, **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    @overload
    def task(self, /, *, key: str, **options: Unpack[TaskOptions]) -> KeyedTaskDecorator: ...
    def task(self, func: Any = None, /, **options: Any) -> Any:
        """Make a function a task: ``@app.task`` or ``@app.task(queue="mail", retry=3)``.

        Options are those of `enqueue` without the underscore. Calling a task calls the function;
        ``.enqueue(…)`` takes the function's own parameters (without its context), typed.
        """
        if func is not None:
            return Task(self, func, options)
        return TaskDecorator(self, options) if options.get("key") is None else KeyedTaskDecorator(self, options)
