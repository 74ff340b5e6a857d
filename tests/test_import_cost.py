"""What importing costs: no driver, no event loop, no terminal library before they are used."""

import json
import subprocess
import sys
import time

import pytest

HEAVY = ("psycopg", "psycopg_pool", "asyncio", "rich", "click", "croniter", "sqlalchemy", "flask", "django")


def loaded_by(code: str) -> set[str]:
    """Which heavy modules a fresh interpreter has after running *code*."""
    program = f"import sys, json\n{code}\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("code", [
    "import pgwerk",
    "import pgwerk.errors",
    "from pgwerk import Job, JobStatus, Retry, Repeat, Dependency, Callback, EnqueueParams, WerkConfig",
    "from pgwerk import JobError, WerkError, JSONSerializer, TypedJSONSerializer, PickleSerializer",
    "import pgwerk; dir(pgwerk)",
])  # fmt: skip
def test_names_that_need_no_database_load_no_driver(code: str) -> None:
    assert loaded_by(code) == set()


def test_the_synchronous_app_needs_no_terminal_library() -> None:
    assert loaded_by("from pgwerk import Werk; Werk('postgresql://nowhere/x')") <= {
        "psycopg",
        "psycopg_pool",
        "asyncio",
    }


def test_every_public_name_can_be_imported() -> None:
    import pgwerk

    for name in pgwerk.__all__:
        assert getattr(pgwerk, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = pgwerk.nonsense


def test_a_program_that_forgets_to_close_its_app_ends_quietly_and_at_once(dsn: str, schema: str) -> None:
    program = "import sys; from pgwerk import Werk; print(Werk(sys.argv[1], schema=sys.argv[2]).list_jobs())"
    started = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", program, dsn, schema], capture_output=True, text=True, check=True)
    assert (ran.stdout.strip(), ran.stderr) == ("[]", "")
    assert time.monotonic() - started < 5
