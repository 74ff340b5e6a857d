"""A Django connection, or its alias, as `_conn`; on each driver that Django takes."""

import subprocess
import sys

import pytest

from tests.fixtures.workers import ROOT

pytest.importorskip("django", reason="Django is not installed")


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_django(dsn: str, schema: str, driver: str) -> None:
    pytest.importorskip(driver)
    done = subprocess.run(
        [sys.executable, "-m", "tests.contrib.django_program", dsn, schema, driver],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"
