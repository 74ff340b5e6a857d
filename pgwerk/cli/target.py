"""What a command works on: an APP of the user's, or the tables behind a DSN."""

import difflib
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from pgwerk.errors import ConfigError, WerkError

if TYPE_CHECKING:
    from pgwerk import Werk


@dataclass(frozen=True)
class Target:
    """The APP argument and the options beside it, not looked at yet."""

    app: str | None = None
    dsn: str | None = field(default=None, repr=False)
    schema: str | None = None
    prefix: str | None = None

    def werk(self) -> "Werk":
        """The app (an asyncio one by its synchronous face), or a bare one for the DSN.

        Raises click.UsageError, ConfigError or WerkError.
        """
        app = self.app_as_given()
        found: Werk = getattr(app, "sync", app)
        return found

    def app_as_given(self) -> Any:
        """Like `werk`, but an asyncio app as it is: handlers are to get what their module has."""
        if self.app is not None:
            given = [f"--{name}" for name in ("dsn", "schema", "prefix") if getattr(self, name) is not None]
            if given:
                raise click.UsageError(
                    f"APP and {' and '.join(given)} do not go together: {self.app} says itself where its tables are."
                )
            return load(self.app)
        from pgwerk import Werk  # noqa: PLC0415  # `werk --help` must not wait for the driver

        try:
            bare = Werk(self.dsn, schema=self.schema, prefix=self.prefix)
        except ConfigError as error:
            if self.dsn is None:
                ctx = click.get_current_context(silent=True)
                command = ctx.info_name if ctx is not None else "info"
                raise ConfigError(f"{error} Or name your app: werk {command} myapp.tasks:app.") from error
            raise
        if in_memory(bare):
            raise ConfigError(
                f"{bare.dsn} is the memory of this process, in which there are no jobs. Pass the DSN of a Postgres, or "
                "name an app that enqueues jobs where it is imported, and run it with --worker-type thread."
            )
        return bare

    def direct(self) -> "Werk":
        """An app for one look or one change: no pool, no startup hooks, no tables made on the way, no unpickling."""
        app = self.werk()
        if in_memory(app):
            raise ConfigError(
                f"The jobs of {self.app} are in {app.dsn}, that is in the memory of the process that enqueues them: "
                "from here there is nothing to see and nothing to change. Ask the app in that process "
                '(app.get_queue_stats(), app.list_jobs()), or keep jobs in Postgres: Werk("embedded://") needs no '
                "set-up."
            )
        from pgwerk import JSONSerializer, PickleSerializer, Werk  # noqa: PLC0415

        serializer = JSONSerializer() if isinstance(app.serializer, PickleSerializer) else app.serializer
        # Without a pool a server that does not answer is an error at once, not after a minute of trying.
        return Werk(app.dsn, config=app.config, serializer=serializer, auto_migrate=False, pool=False)


def in_memory(app: Any) -> bool:
    """Whether the jobs of an app are in its own process, and nowhere else."""
    dsn: str = app.dsn
    return dsn.startswith("memory:")


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument APP and the options of `Target`, as the keyword *target*."""

    @click.argument("app", required=False, metavar="[APP]")
    @dsn_options
    @functools.wraps(command)
    def wrapped(*args: Any, app: str | None, target: Target, **kwargs: Any) -> Any:
        return command(*args, target=Target(app, target.dsn, target.schema, target.prefix), **kwargs)

    return wrapped


def dsn_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --dsn, --schema and --prefix, as the keyword *target*."""

    @click.option("--dsn", metavar="DSN", help="Where the jobs are, instead of APP [env: PGWERK_DSN, DATABASE_URL].")
    @click.option("--schema", metavar="NAME", help="Schema of the tables, with --dsn [default: pgwerk].")
    @click.option("--prefix", metavar="NAME", help="Prefix of the tables, with --dsn [default: _pgwerk].")
    @functools.wraps(command)
    def wrapped(*args: Any, dsn: str | None, schema: str | None, prefix: str | None, **kwargs: Any) -> Any:
        return command(*args, target=Target(None, dsn, schema, prefix), **kwargs)

    return wrapped


def load(path: str) -> Any:
    """Import the Werk, of either kind, that ``module:attribute`` names; nothing is called to get it."""
    module_name, colon, attribute = path.partition(":")
    if "://" in path:
        raise click.UsageError(f"{path.partition('://')[0]}://… is a DSN, not an APP. Pass it as --dsn.")
    if any(sign in path for sign in "@= "):
        # Not repeated: it may hold a password.
        raise click.UsageError("APP is module:attribute, and this is not: it looks like a DSN. Pass it as --dsn.")
    if module_name.endswith(".py") or "/" in module_name:
        module_name = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise click.UsageError(
            f"APP is module:attribute with dots, not a file. Did you mean {module_name}:{attribute or 'app'}?"
        )
    if not module_name or (colon and not attribute):
        raise click.UsageError(f"{path!r} is not an APP: give module:attribute, for example myapp.tasks:app.")
    # What `python -m` does: the project one stands in comes first.
    if os.getcwd() not in sys.path and "" not in sys.path:  # noqa: PTH109  # a string to compare with
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    module = _import(module_name, path)
    if not colon:
        names = _apps_in(module)
        hint = f"Did you mean {module_name}:{names[0]}?" if names else f"For example {module_name}:app."
        raise click.UsageError(f"{path!r} names a module; APP is module:attribute. {hint}")
    return _checked(_attribute(module, attribute), path)


def _import(name: str, path: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise click.UsageError(
                f"There is no module {error.name!r} to import {path!r} from: it was looked for in "
                f"{os.getcwd()} and in the Python environment {sys.prefix}. "  # noqa: PTH109
                "Run werk in the directory that holds it, or install it there."
            ) from error
        raise _import_failed(name, error) from error
    except ConfigError as error:
        raise ConfigError(f"Importing {name!r} failed{_where(error)}: {error}") from error
    except (Exception, SystemExit) as error:
        raise _import_failed(name, error) from error


def _import_failed(name: str, error: BaseException) -> WerkError:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return WerkError(
        f"Importing {name!r} failed{_where(error)}: {text}. "
        f"Try `python -c 'import {name}'`; `werk --debug …` shows the whole traceback."
    )


def _where(error: BaseException) -> str:
    """Where in the user's code it happened: the last line outside of this module and of importlib."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and os.sep + "pgwerk" + os.sep not in frame.filename
    ]
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _attribute(module: Any, attribute: str) -> Any:
    found = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            apps = _apps_in(found)
            near = difflib.get_close_matches(part, [*apps, *vars(found)] if hasattr(found, "__dict__") else apps, n=1)
            there = near or apps[:1]
            hint = f" Did you mean {there[0]!r}?" if there else " Nothing in it is a Werk, either."
            raise click.UsageError(f"{module.__name__!r} has no attribute {attribute!r}.{hint}") from None
    return found


def _apps_in(module: Any) -> list[str]:
    names = vars(module) if hasattr(module, "__dict__") else {}
    return [name for name, value in names.items() if _is_app(value)]


def _is_app(value: Any) -> bool:
    from pgwerk._app.faces import Face  # noqa: PLC0415  # what both kinds of Werk are

    return isinstance(value, Face)


def _checked(found: Any, path: str) -> Any:
    if _is_app(found):
        return found
    kind = f"{type(found).__module__}.{type(found).__qualname__}".removeprefix("builtins.")
    if isinstance(found, type):
        cure = f"It is a class; make an object of it at the top level of the module: app = {found.__name__}(…)."
    elif callable(found) and hasattr(found, "__code__"):
        module, _, name = path.partition(":")
        cure = (
            "It is a function, and werk calls nothing to get an app: it could open connections or start threads. "
            f"Call it at the top level of a module, app = {name}(), and name that: {module}:app."
        )
    else:
        cure = f"Its type is {kind}. APP names the object that pgwerk.Werk(…) returned."
    raise click.UsageError(f"{path!r} is not a Werk. {cure}")
