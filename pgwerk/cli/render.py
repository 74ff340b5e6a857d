"""Parts of a page as rich renderables, for a terminal. Nothing here prints."""

from typing import TYPE_CHECKING

from pgwerk.cli.grid import Block, Cell, Facts, Grid, Part
from pgwerk.logs import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text


ELASTIC = ("error", "reason")
"""Columns of sentences, which may be broken into lines …"""
ELASTIC_WIDTH = 30
"""… of at least this many characters."""


def renderable(part: Part, width: int) -> "RenderableType":
    """The renderable of a part, for a terminal of this many columns."""
    match part:
        case Grid():
            return table(part, width)
        case Facts():
            return facts(part)
        case Block():
            return block(part)
        case str():
            return line(part)


def text(cell: Cell) -> "Text":
    """A cell; its text is never read as markup."""
    from rich.text import Text  # noqa: PLC0415  # rich is only loaded for a terminal

    return Text(cell.safe, style=cell.style)


def line(words: str) -> "Text":
    """A sentence."""
    from rich.text import Text  # noqa: PLC0415

    return Text(printable(words, keep="\n"))


def table(grid: Grid, width: int) -> "RenderableType":
    """A table, or the sentence that stands for an empty one."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if not grid.rows:
        return line(grid.empty)
    grid = fitted(grid, width)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    if grid.title:
        made.title, made.title_justify, made.title_style = grid.title, "left", "bold"
    fits = needed(grid) <= width
    for name, numeric in grid.columns:
        # Only texts may break: an id over two lines cannot be copied.
        whole = numeric or name in ("id", "status") or (fits and name not in ELASTIC)
        made.add_column(name, justify="right" if numeric else "left", no_wrap=whole, overflow="fold")
    for row in grid.rows:
        made.add_row(*(text(cell) for cell in row))
    return made


def fitted(grid: Grid, width: int) -> Grid:
    """The table without the columns that *width* has no room for."""
    for name in grid.spare:
        if needed(grid) <= width:
            break
        grid = grid.without(name)
    return grid


def needed(grid: Grid) -> int:
    """How wide a table wants to be."""
    columns = zip(grid.columns, grid.widths(), strict=True)
    return sum(2 + (min(width, ELASTIC_WIDTH) if name in ELASTIC else width) for (name, _), width in columns)


def facts(part: Facts) -> "Table":
    """Names and values, in two columns."""
    from rich.table import Table  # noqa: PLC0415

    made = Table.grid(padding=(0, 2))
    made.title = part.title or None
    made.title_justify = "left"
    made.title_style = "bold"
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, cell in part.facts:
        made.add_row(name, text(cell))
    return made


def block(part: Block) -> "RenderableType":
    """A text under its title, indented."""
    from rich.console import Group  # noqa: PLC0415
    from rich.padding import Padding  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    return Group(Text(part.title, style="bold"), Padding(Text(part.safe.expandtabs()), (0, 0, 0, 2), expand=False))
