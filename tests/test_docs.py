"""The documentation: every sample runs, every link leads somewhere, every public name has a docstring."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import psycopg
import pytest

import pgwerk

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SAMPLE_DSN = "postgresql://user:password@localhost/mydb"


def samples(page: Path) -> str:
    """The Python samples of a page, as one program."""
    return "\n\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


BEFORE = """
import psycopg
session = psycopg.connect({dsn!r})
"""
AFTER = """
session.close()
ThreadWorker = __import__("pgwerk").ThreadWorker
ThreadWorker(werk, queues=["default", "mail", "bulk"], burst=True).run()
failed = [(job.function, job.error) for job in werk.list_jobs(status="failed")]
werk.close()
assert failed == [], failed
print("the samples ran")
"""


@pytest.mark.parametrize("name", ["README.md", "docs/guide.md"])
def test_the_samples_of_a_page_run_from_top_to_bottom(name: str, dsn: str, schema: str, tmp_path: Path) -> None:
    program = samples(ROOT / name).replace(SAMPLE_DSN, dsn)
    assert program
    script = tmp_path / "samples.py"
    script.write_text(BEFORE.format(dsn=dsn) + program + AFTER)
    environment = {**os.environ, "PGWERK_SCHEMA": schema, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert "the samples ran" in ran.stdout, ran.stderr
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop table if exists orders")


def test_the_samples_about_memory_are_tests_that_pass(tmp_path: Path) -> None:
    (tmp_path / "test_samples.py").write_text(samples(ROOT / "docs/memory.md"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "test_samples.py",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment, check=False
    )
    assert "3 passed" in ran.stdout, ran.stdout + ran.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_all_addresses_of_the_project_agree() -> None:
    home = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Homepage"]
    files = [*PAGES, ROOT / "pyproject.toml", *sorted((ROOT / ".github").rglob("*.yml"))]
    found = [
        (file.name, url) for file in files for url in re.findall(r"https://github\.com/[\w./-]*", file.read_text())
    ]
    assert found
    assert [(name, url) for name, url in found if url != home and not url.startswith(f"{home}/")] == []
    for _name, url in found:
        _, in_repository, path = url.partition(f"{home}/blob/main/")
        assert not in_repository or (ROOT / path).exists(), url


def test_every_public_name_can_be_imported_and_is_documented() -> None:
    for name in pgwerk.__all__:
        value = getattr(pgwerk, name)
        if isinstance(value, type) or callable(value):
            assert (value.__doc__ or "").strip(), name
            for attribute, member in vars(value).items() if isinstance(value, type) else ():
                if (
                    not attribute.startswith("_")
                    and callable(member)
                    and getattr(member, "__module__", "").startswith("pgwerk")
                ):
                    assert (member.__doc__ or "").strip(), f"{name}.{attribute}"
