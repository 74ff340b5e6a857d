"""The only place where results are printed: tables on a terminal, aligned text in a pipe, JSON when asked for."""

import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

import click

from pgwerk import views
from pgwerk.cli.grid import Part, plain_lines


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --json, as the keyword *as_json*."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def is_terminal() -> bool:
    """Whether standard output is a terminal that understands more than text."""
    return sys.stdout.isatty()


def show(*parts: Part, plain: bool = False) -> None:
    """Print parts of a page, an empty line between them."""
    if plain or not is_terminal():
        for number, part in enumerate(parts):
            if number:
                print()
            for line in plain_lines(part):
                print(line)
        return
    from rich.console import Console  # noqa: PLC0415  # only for a terminal

    from pgwerk.cli.render import renderable  # noqa: PLC0415

    console = Console(highlight=False)
    for number, part in enumerate(parts):
        if number:
            console.print()
        console.print(renderable(part, console.width))


def note(sentence: str) -> None:
    """Print a remark where no program takes it for a result; where that is impossible, the results count."""
    with contextlib.suppress(OSError):
        click.echo(sentence, err=True)


def show_json(value: Any) -> None:
    """Print a value as JSON; what a job wrote is escaped by the encoding itself."""
    print(json.dumps(views.value(value), indent=2))
