"""A table as data, between what was read and how it is shown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pgwerk.logs import printable

COLOURS = {
    "queued": "cyan", "scheduled": "blue", "waiting": "blue", "active": "yellow", "aborting": "yellow",
    "running": "yellow", "complete": "green", "failed": "red", "aborted": "magenta", "lost": "red", "stopped": "dim",
}  # fmt: skip
"""Of statuses; the word itself is always there as well."""


@dataclass(frozen=True)
class Cell:
    """One text, printable whatever it was made from."""

    text: str
    style: str = ""

    @property
    def safe(self) -> str:
        """The text on one line."""
        return printable(self.text)


@dataclass
class Grid:
    """A table: columns (name, whether numbers) and rows."""

    title: str
    columns: Sequence[tuple[str, bool]]
    rows: list[list[Cell]] = field(default_factory=list)
    empty: str = ""
    """What to say instead of a table without rows."""
    spare: Sequence[str] = ()
    """Columns that a narrow terminal does without, the most dispensable first."""

    def add(self, *cells: str | int | Cell) -> None:
        """Add a row."""
        self.rows.append([cell if isinstance(cell, Cell) else Cell(str(cell)) for cell in cells])

    def without(self, name: str) -> "Grid":
        """The table without a column."""
        kept = [number for number, (other, _) in enumerate(self.columns) if other != name]
        rows = [[row[number] for number in kept] for row in self.rows]
        return replace(self, columns=[self.columns[number] for number in kept], rows=rows)

    def widths(self) -> list[int]:
        """The width of each column."""
        table = [[name for name, _ in self.columns], *([cell.safe for cell in row] for row in self.rows)]
        return [max(map(len, column)) for column in zip(*table, strict=True)]


@dataclass
class Facts:
    """A list of names and values, in order."""

    title: str
    facts: list[tuple[str, Cell]] = field(default_factory=list)

    def add(self, name: str, text: str, style: str = "") -> None:
        """Add a value."""
        self.facts.append((name, Cell(text, style)))


@dataclass(frozen=True)
class Block:
    """A text of several lines, such as a traceback."""

    title: str
    text: str

    @property
    def safe(self) -> str:
        """The text with its own line ends and tabs, and nothing else that a terminal obeys."""
        return printable(self.text, keep="\n\t")


Part = Grid | Facts | Block | str


def status(word: str) -> Cell:
    """A status in its colour."""
    return Cell(word, COLOURS.get(word, ""))


def plain_lines(part: Part) -> Iterable[str]:
    """Lay out a part as aligned text, nothing cut off: for pipes and files."""
    match part:
        case str():
            yield printable(part, keep="\n")
        case Block():
            yield f"{part.title}:"
            yield from (f"  {line}" for line in part.safe.split("\n"))
        case Facts():
            if part.title:
                yield part.title
            width = max((len(name) for name, _ in part.facts), default=0)
            yield from (f"{name:<{width}}  {cell.safe}" for name, cell in part.facts)
        case Grid():
            yield from _grid_lines(part)


def _grid_lines(grid: Grid) -> Iterable[str]:
    if not grid.rows:
        if grid.empty:
            yield grid.empty
        return
    if grid.title:
        yield grid.title
    widths = grid.widths()
    for row in [[name.upper() for name, _ in grid.columns], *([cell.safe for cell in row] for row in grid.rows)]:
        parts = [
            text.rjust(width) if numeric else text.ljust(width)
            for text, width, (_, numeric) in zip(row, widths, grid.columns, strict=True)
        ]
        yield "  ".join(parts).rstrip()
