"""The numbered SQL files of the schema, and their loader."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Migration:
    """One numbered step of the schema."""

    version: int
    name: str
    sql: str

    @property
    def label(self) -> str:
        """Its number and name, as its file is called."""
        return f"{self.version:04}_{self.name}"


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations, in order."""
    found = []
    for entry in files(__name__).iterdir():
        if entry.name.endswith(".sql"):
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, entry.read_text(encoding="utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.version))


def latest() -> int:
    """The version that this code is written for."""
    return migrations()[-1].version


OLDEST_USABLE = 2
"""The oldest version of the schema that this code still runs on."""
