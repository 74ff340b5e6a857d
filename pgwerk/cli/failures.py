"""How the command line fails: a paragraph on standard error and an exit code, never a traceback unless asked for.

0 is fine, 1 failed, 2 wrong usage; 130 is Ctrl-C.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import click

from pgwerk.cli import streams
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
    streams.prepare()
    try:
        code = _code(run, args, extra)
        sys.stdout.flush()
    except (BrokenPipeError, SeenEnough):
        code = 0
    except OSError as error:
        if isinstance(error, WerkError) or error.filename is not None:
            raise  # wanted so, or about a file rather than what we print
        code = FAILED
        with contextlib.suppress(OSError):
            tell(f"the output could not be written: {os.strerror(error.errno or 0)}.")
    streams.settle()
    sys.exit(code)


def _code(run: Callable[..., Any], args: Any, extra: dict[str, Any]) -> int:
    try:
        result = run(args, standalone_mode=False, **extra)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.ClickException as error:
        vars(error)["message"] = without_secrets(error.message, args)
        # Where nobody can be told, the exit code tells.
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code
    except WerkError as error:
        if debugging(args):
            raise
        with contextlib.suppress(OSError):
            tell(without_secrets(str(error), args))
        return WRONG_USAGE if isinstance(error, ConfigError) else FAILED
    # click returns the code of ctx.exit(), and the value of a command that returns one.
    return result if isinstance(result, int) and not isinstance(result, bool) else 0


def without_secrets(message: str, args: Any) -> str:
    """Leave out what may be a DSN, wherever on the command line it was written."""
    given = sys.argv[1:] if args is None else [str(arg) for arg in args]
    for arg in sorted(given, key=len, reverse=True):
        text = arg.partition("=")[2] if arg.startswith("--") else arg
        if re.search(r"://|password\s*=|:\S*@", text):
            for shown in (repr(text), text):
                message = message.replace(shown, "(a DSN)")
    return message


def debugging(args: Any = None) -> bool:
    """Whether tracebacks are wanted."""
    given = sys.argv[1:] if args is None else list(args)
    asked = "--debug" in given[: next((i for i, arg in enumerate(given) if not arg.startswith("-")), len(given))]
    return asked or os.environ.get("PGWERK_DEBUG", "").lower() not in ("", "0", "false", "no", "off")
