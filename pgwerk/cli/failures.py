"""How the command line fails: a paragraph on standard error and an exit code, never a traceback unless asked for.

0 is fine, 1 failed, 2 wrong usage; 130 is Ctrl-C.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from pgwerk.errors import ConfigError, WerkError
from pgwerk.logs import printable

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


class SeenEnough(Exception):
    """Whoever read our output has closed it."""


def tell(message: str) -> None:
    """Print an error."""
    click.echo(f"Error: {printable(message.strip(), keep=chr(10))}", err=True)


def guarded(run: Callable[..., Any], args: Any, *, standalone_mode: bool = True, **extra: Any) -> Any:
    """Call click's *run* and leave with the right exit code."""
    if not standalone_mode:
        return run(args, standalone_mode=False, **extra)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character shows its code.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _code(run, args, extra)
        sys.stdout.flush()
    except (BrokenPipeError, SeenEnough):
        # Python would complain again when it flushes at the end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _code(run: Callable[..., Any], args: Any, extra: dict[str, Any]) -> int:
    try:
        result = run(args, standalone_mode=False, **extra)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except WerkError as error:
        if debugging(args):
            raise
        tell(str(error))
        return WRONG_USAGE if isinstance(error, ConfigError) else FAILED
    # click returns the code of ctx.exit(), and the value of a command that returns one.
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def debugging(args: Any = None) -> bool:
    """Whether tracebacks are wanted."""
    given = sys.argv[1:] if args is None else list(args)
    asked = "--debug" in given[: next((i for i, arg in enumerate(given) if not arg.startswith("-")), len(given))]
    return asked or os.environ.get("PGWERK_DEBUG", "").lower() not in ("", "0", "false", "no", "off")
