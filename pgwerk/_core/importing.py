"""From a stored dotted path to the function it names, or to the reason why there is none."""

import functools
import importlib
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from pgwerk._core import mainmodule
from pgwerk.errors import HandlerNotFound


def unwrap(func: Any) -> Any:
    """The plain function behind a task."""
    if type(func) is FunctionType:
        return func
    # Asked of the class: what functools.wraps makes of a task has its attributes, and is none.
    while hasattr(type(func), "__pgwerk_function__"):
        func = func.__pgwerk_function__
    return func


@functools.lru_cache(maxsize=4096)
def resolve(path: str) -> Callable[..., Any]:
    """Import the function that *path* names; raises HandlerNotFound."""
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise HandlerNotFound(f"{path!r} is not the dotted path of a function")
    for split in range(len(parts) - 1, 0, -1):
        module = _import_if_there(".".join(parts[:split]), path)
        if module is None:
            continue
        found = unwrap(find(module, tuple(parts[split:])))
        if not callable(found):
            raise HandlerNotFound(_missing(module, parts, split))
        function: Callable[..., Any] = found
        return function
    hint = " (it was defined in a script that was run directly)" if parts[0] in mainmodule.MAIN else ""
    raise HandlerNotFound(
        f"there is no module {parts[0]!r} to import {path!r} from{hint}; it was looked for in sys.path. "
        "Start the worker where the module can be imported, or install it there"
    )


def find(found: Any, parts: tuple[str, ...]) -> Any:
    """Follow attributes; None when one is missing."""
    for part in parts:
        found = getattr(found, part, None)
    return found


def _missing(module: ModuleType, parts: list[str], split: int) -> str:
    """Say where on its way from *module* on a path ends."""
    here: Any = module
    depth = split
    while depth < len(parts) and (inner := getattr(here, parts[depth], None)) is not None:
        here, depth = inner, depth + 1
    owner = ".".join(parts[:depth])
    if depth == len(parts):
        kind = "a module" if isinstance(here, ModuleType) else f"of type {type(here).__qualname__}"
        name = ".".join(parts[split:])
        return f"module {'.'.join(parts[:split])!r} has no function {name!r}: what has this name is {kind}"
    hint = "was it renamed, or does this worker run other code than the producer?"
    kind = "module" if here is module else "class" if isinstance(here, type) else type(here).__qualname__
    if depth == len(parts) - 1:
        return f"{kind} {owner!r} has no function {parts[depth]!r}; {hint}"
    path, gone = ".".join(parts), ".".join(parts[: depth + 1])
    if here is module:
        return (
            f"there is no module {gone!r} to import {path!r} from, and module {owner!r} has no function or class "
            f"{parts[depth]!r}; {hint}"
        )
    return f"{kind} {owner!r} has no {parts[depth]!r} to find {path!r} in; {hint}"


def required(name: str) -> ModuleType:
    """Import a module; raises HandlerNotFound also when it does not exist."""
    module = _import_if_there(name, name)
    if module is None:
        raise HandlerNotFound(f"there is no module {name!r}")
    return module


def _import_if_there(name: str, path: str) -> ModuleType | None:
    """Import a module, None when there is no such module; raises HandlerNotFound when importing it fails."""
    if (main := mainmodule.running(name)) is not None:
        return main
    try:
        # Not sys.modules: while another thread imports the module it is there, half made.
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name is not None and (name == error.name or name.startswith(error.name + "."))
        if missing and not _where(error):
            return None
        raise HandlerNotFound(_failed_import(name, path, error)) from error
    except (Exception, SystemExit) as error:
        raise HandlerNotFound(_failed_import(name, path, error)) from error


def _failed_import(name: str, path: str, error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, SystemExit):
        text += "; let a program start only under `if __name__ == '__main__':`"
    return f"importing {name!r} for {path!r} failed{_where(error)}: {text}"


def _where(error: BaseException) -> str:
    """The module and line that raised; empty when it was the import itself."""
    trace, found = error.__traceback__, ""
    while trace is not None:
        frame = trace.tb_frame
        module = str(frame.f_globals.get("__name__", "?"))
        machinery = module.partition(".")[0] == "importlib" or frame.f_code.co_filename.startswith("<frozen")
        if module != __name__ and not machinery:
            found = f" in {module} ({frame.f_code.co_filename}:{trace.tb_lineno})"
        trace = trace.tb_next
    return found
