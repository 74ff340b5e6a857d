"""Parts of a page as rich renderables, for a terminal. Nothing here prints."""

from typing import TYPE_CHECKING

from pgwerk.cli.grid import Block, Cell, Facts, Grid, Part
from pgwerk.logs import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text


def renderable(part: Part) -> "RenderableType":
    """The renderable of a part."""
    match part:
        case Grid():
            return table(part)
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


def table(grid: Grid) -> "RenderableType":
    """A table, or the sentence that stands for an empty one."""
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    if not grid.rows:
        return line(grid.empty)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    if grid.title:
        made.title, made.title_justify, made.title_style = grid.title, "left", "bold"
    for name, numeric in grid.columns:
        # An id that is broken over two lines cannot be copied; texts may break.
        made.add_column(
            name, justify="right" if numeric else "left", no_wrap=numeric or name in ("id", "status"), overflow="fold"
        )
    for row in grid.rows:
        made.add_row(*(text(cell) for cell in row))
    return made


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

    return Group(Text(part.title, style="bold"), Padding(Text(part.safe), (0, 0, 0, 2)))
