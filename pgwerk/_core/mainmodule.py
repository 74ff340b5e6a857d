"""The module that was run as a program: Python calls it ``__main__``, a worker needs the name it is imported by."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from pgwerk.errors import EnqueueError

MAIN = ("__main__", "__mp_main__")
"""What the module of the program is called; the second in processes that multiprocessing spawned."""


def importable(module: str) -> str:
    """Find the name that a worker imports *module* by; raises EnqueueError when the program has none."""
    return _name(sys.modules[module]) if module in MAIN and module in sys.modules else module


def importable_or_same(module: str) -> str:
    """Find the name that a worker imports *module* by, or leave it as it is."""
    try:
        return importable(module)
    except EnqueueError:
        return module


def running(name: str) -> ModuleType | None:
    """Find the module of the program, if *name* imports the same file: importing it again would run it twice."""
    main = sys.modules.get("__main__")
    if main is None or name in MAIN or importable_or_same("__main__") != name:
        return None
    return main


# A failure is not kept: the module may become importable.
@functools.lru_cache(maxsize=8)
def _name(main: ModuleType) -> str:
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name not in MAIN:
        name: str = spec.name
        return name
    file = getattr(main, "__file__", None)
    if file is None:
        raise EnqueueError("it is defined in an interactive session, where a worker cannot import it. " + _CURE)
    return _name_of_script(Path(file).absolute())


_CURE = "Move it to a module, and import it from there."


def _name_of_script(script: Path) -> str:
    name = script.stem
    if script.suffix != ".py" or not name.isidentifier() or name in MAIN:
        raise EnqueueError(f"it is defined in {script}, a file that a worker cannot import by its name. {_CURE}")
    if (script.parent / "__init__.py").exists():
        whole = f"{script.parent.name}.{name}"
        raise EnqueueError(
            f"it is defined in {script}, part of a package that was run as a script: a worker imports it by another "
            f"name. Run `python -m {whole}` in the directory above."
        )
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        raise EnqueueError(f"it is defined in {script}, whose directory is not in sys.path. {_CURE}")
    if not Path(found.origin).exists() or not script.samefile(found.origin):
        raise EnqueueError(
            f"it is defined in {script}, and `import {name}` finds another module: {found.origin}. Rename the script."
        )
    return name
