"""Names and functions: what a stored dotted path calls, and whether a call fits."""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

from pgwerk.errors import EnqueueError, HandlerNotFound

CONTEXT_NAMES = ("Context", "pgwerk.Context", "pgwerk.aio.Context")


def path_of(func: Any) -> str:
    """Find the dotted path that a worker will import *func* by, or raise EnqueueError saying why it has none."""
    if isinstance(func, str):
        return _checked_path(func)
    func = unwrap(func)
    return _path_of_function(func) if type(func) is FunctionType else _path_of(func)


def _path_of(func: Any) -> str:
    if isinstance(func, functools.partial):
        raise EnqueueError(
            f"a partial of {_name(func.func)} cannot be enqueued: it has no name to import. "
            f"Enqueue {_name(func.func)} itself and pass the arguments to enqueue()."
        )
    if inspect.ismethod(func):
        raise EnqueueError(
            f"the method {func.__qualname__} cannot be enqueued: a worker cannot import the object it is bound to. "
            "Write a module-level function that fetches the object and calls the method."
        )
    if not callable(func):
        raise EnqueueError(f"{func!r} cannot be enqueued: give a module-level function or its dotted path")
    module = getattr(func, "__module__", None)
    name = getattr(func, "__qualname__", None)
    if name is None or module is None:
        raise EnqueueError(f"{func!r} cannot be enqueued: it has no name that a worker could import it by")
    if name.rpartition(".")[2] == "<lambda>":
        raise EnqueueError(
            "a lambda cannot be enqueued: it has no name that a worker could import. "
            "Write a function with def at the top level of a module."
        )
    if "<locals>" in name:
        raise EnqueueError(
            f"{name.replace('.<locals>', '')} cannot be enqueued: it is defined inside a function, where a worker "
            "cannot import it. Move it to the top level of its module."
        )
    if module == "__main__":
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        module = spec.name.removesuffix(".__main__") if spec is not None and spec.name else module
    return f"{module}.{name}"


_path_of_function = functools.lru_cache(maxsize=4096)(_path_of)


def unwrap(func: Any) -> Any:
    """The plain function behind a task."""
    return getattr(func, "__pgwerk_function__", func)


def _name(func: Any) -> str:
    return getattr(func, "__qualname__", repr(func))


def _checked_path(path: str) -> str:
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise EnqueueError(
            f"{path!r} is not the dotted path of a function; it should look like 'package.module.function'"
        )
    return path


@functools.lru_cache(maxsize=4096)
def resolve(path: str) -> Callable[..., Any]:
    """Import the function that *path* names; raises HandlerNotFound."""
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise HandlerNotFound(f"{path!r} is not the dotted path of a function")
    for split in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:split])
        try:
            # Not sys.modules: while another thread imports the module it is there, half made.
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
                continue
            raise HandlerNotFound(f"importing {path!r} failed: {error}") from error
        except Exception as error:
            raise HandlerNotFound(f"importing {path!r} failed: {type(error).__name__}: {error}") from error
        for part in parts[split:]:
            found = getattr(found, part, None)
        found = unwrap(found)
        if not callable(found):
            raise HandlerNotFound(
                f"module {name!r} has no function {'.'.join(parts[split:])!r}; was it renamed, "
                "or does this worker run other code than the producer?"
            )
        function: Callable[..., Any] = found
        return function
    hint = " (it was defined in a script that was run directly)" if parts[0] == "__main__" else ""
    raise HandlerNotFound(f"no module {parts[0]!r} to import {path!r} from{hint}")


@functools.lru_cache(maxsize=4096)
def wants_context(func: Callable[..., Any]) -> bool:
    """Say whether the first positional parameter is named ctx or annotated as Context."""
    try:
        parameters = list(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):
        return False
    if not parameters:
        return False
    first = parameters[0]
    if first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return False
    annotation = first.annotation
    if isinstance(annotation, type):
        annotation = annotation.__name__
    return first.name == "ctx" or annotation in CONTEXT_NAMES


def check_call(func: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise EnqueueError when *func* cannot be called so. A path that cannot be imported here is not checked."""
    function = unwrap(func)
    if isinstance(function, str):
        function = _importable(path)
        if function is None:
            return
    problem = _problem(function, len(args), tuple(sorted(kwargs)))
    if problem is not None:
        raise EnqueueError(f"{path} cannot be called with these arguments: {problem}")


@functools.lru_cache(maxsize=4096)
def _importable(path: str) -> Callable[..., Any] | None:
    try:
        return resolve(path)
    except HandlerNotFound as error:
        module = path.rpartition(".")[0]
        if module in sys.modules:
            # The module is here and the function is not: a typing error rather than code that only workers have.
            raise EnqueueError(f"{path} cannot be enqueued: {error}") from None
        return None


@functools.lru_cache(maxsize=16384)
def _problem(func: Callable[..., Any], positional: int, names: tuple[str, ...]) -> str | None:
    try:
        signature = inspect.signature(func)
    except (TypeError, ValueError):
        return None
    context = (None,) if wants_context(func) else ()
    try:
        _ = signature.bind(*context, *([None] * positional), **dict.fromkeys(names))
    except TypeError as error:
        return f"{error}. Its signature is {path_signature(func, signature)}"
    return None


def path_signature(func: Callable[..., Any], signature: inspect.Signature) -> str:
    """Show a call as a person would write it."""
    return f"{getattr(func, '__name__', 'function')}{signature}"
