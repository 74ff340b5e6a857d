"""Say whether a wheel and an sdist hold all that they must, and nothing that they must not."""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ("tests/", "benchmarks/", "examples/", "tools/", ".github/", ".ci/")


def sources() -> set[str]:
    """All files of the package, as the wheel should have them."""
    found = (path for path in (ROOT / "pgwerk").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in found}


def faults_of_wheel(wheel: Path) -> list[str]:
    """What is missing in the wheel, or too much."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = [name for name in names if name.endswith("dist-info/entry_points.txt")]
        commands = archive.read(entry_points[0]).decode() if entry_points else ""
    faults = [f"{wheel.name} lacks {name}" for name in sorted(sources() - names)]
    faults += [f"{wheel.name} holds {name}" for name in sorted(names) if name.startswith(FOREIGN)]
    if "werk = pgwerk.cli:main" not in commands:
        faults.append(f"{wheel.name} has no command `werk`")
    if not any(name.endswith(".sql") for name in names) or "pgwerk/py.typed" not in names:
        faults.append(f"{wheel.name} lacks migrations or py.typed")
    return faults


def faults_of_sdist(sdist: Path) -> list[str]:
    """What is missing in the sdist, or too much."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = sources() | {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "tests/conftest.py"}
    faults = [f"{sdist.name} lacks {name}" for name in sorted(wanted - names)]
    return faults + [f"{sdist.name} holds {name}" for name in sorted(names) if name.startswith((".github/", ".ci/"))]


def main(directory: str) -> int:
    """Check what was built in *directory*."""
    wheels, sdists = list(Path(directory).glob("*.whl")), list(Path(directory).glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        sys.stderr.write(f"{directory} should hold one wheel and one sdist: {wheels + sdists}\n")
        return 1
    faults = faults_of_wheel(wheels[0]) + faults_of_sdist(sdists[0])
    sys.stderr.write("".join(f"{fault}\n" for fault in faults))
    sys.stdout.write("" if faults else f"{wheels[0].name} and {sdists[0].name} are complete\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
