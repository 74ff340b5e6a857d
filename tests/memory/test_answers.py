"""Each statement of the core is answered by memory, or listed as Postgres's own; wrong answers are refused by mypy."""

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from pgwerk._core import statements
from pgwerk._core.operation import Statement
from pgwerk._memory import backend
from pgwerk._memory.answering import ANSWERS
from pgwerk._memory.answers.schema import POSTGRES_ONLY
from pgwerk._memory.store import Store

ROOT = Path(__file__).parent.parent.parent


def factories() -> Iterator[Callable[..., Any]]:
    """All functions that make statements."""
    for info in pkgutil.iter_modules(statements.__path__):
        module = importlib.import_module(f"{statements.__name__}.{info.name}")
        for name, found in vars(module).items():
            own = inspect.isfunction(found) and found.__module__ == module.__name__ and not name.startswith("_")
            if own and getattr(get_type_hints(found).get("return"), "__origin__", None) is Statement:
                yield found


EACH = {f"{factory.__module__.rpartition('.')[2]}.{factory.__name__}": factory for factory in factories()}


def test_there_are_statements() -> None:
    assert len(EACH) > 90


@pytest.mark.parametrize("name", EACH)
def test_each_statement_is_answered_or_listed(name: str) -> None:
    factory = EACH[name]
    assert (factory in ANSWERS) != (factory in POSTGRES_ONLY)
    if factory in POSTGRES_ONLY:
        assert POSTGRES_ONLY[factory]  # says why
        return
    answer = ANSWERS[factory]
    assert f"{answer.__module__.rpartition('.')[2]}.{answer.__name__}" == name
    (_, *mine), theirs = inspect.signature(answer).parameters.values(), inspect.signature(factory).parameters.values()
    assert [(one.name, one.kind, one.default) for one in mine] == [(one.name, one.kind, one.default) for one in theirs]


def test_nothing_else_is_answered_or_listed() -> None:
    assert {*ANSWERS, *POSTGRES_ONLY} == set(EACH.values())


def test_statements_know_what_made_them() -> None:
    made = EACH["queries.get_by_key"]("a", decode=str)
    assert (made.factory, made.args, made.kwargs) == (EACH["queries.get_by_key"], ("a",), {"decode": str})
    assert backend.run(Store(), made) is None


HEAD = """\
from collections.abc import Sequence

from pgwerk._core.statements import enqueue, running, settling
from pgwerk._core.statements.enqueue import Inserted, Values
from pgwerk._memory.answering import answer, answers
from pgwerk._memory.store import Store


@answers(running.aborting)
def right(store: Store, ids: Sequence[str]) -> list[str]:
    return list(ids)


@answers(enqueue.insert)
def also_right(store: Store, job: Values, *, always_tell: bool) -> list[Inserted]:
    return answer(store, enqueue.insert(job, always_tell=always_tell))
"""

WRONG = {
    "a wrong result": """
@answers(running.aborting)
def f(store: Store, ids: Sequence[str]) -> list[int]:
    return []
""",
    "a wrong parameter": """
@answers(running.aborting)
def f(store: Store, ids: Sequence[int]) -> list[str]:
    return []
""",
    "a parameter too few": """
@answers(settling.lock)
def f(store: Store, ids: Sequence[str]) -> list[str]:
    return []
""",
    "a parameter too many": """
@answers(running.aborting)
def f(store: Store, ids: Sequence[str], more: int) -> list[str]:
    return []
""",
    "a keyword that is not one": """
@answers(enqueue.insert)
def f(store: Store, job: Values, always: bool) -> list[Inserted]:
    return []
""",
    "no store": """
@answers(running.aborting)
def f(ids: Sequence[str]) -> list[str]:
    return []
""",
    "an answer that is taken for something else": """
found: list[int] = answer(Store(), running.aborting([]))
""",
    "no statement": """
@answers(len)
def f(store: Store, items: Sequence[str]) -> int:
    return 0
""",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_mypy_refuses_wrong_answers(tmp_path: Path) -> None:
    right = tmp_path / "right_answers.py"
    right.write_text(HEAD)
    wrong = {tmp_path / f"wrong_{number}.py": text for number, text in enumerate(WRONG.values())}
    for path, text in wrong.items():
        path.write_text(HEAD + "\n" + text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml"), "--no-error-summary",
         "--cache-dir", str(ROOT / ".mypy_cache"), "--no-warn-unused-configs", str(right), *map(str, wrong)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    refused = set(
        re.findall(r"^(\S+?)\.py:\d+: error: .*\[arg-type\]|^(\S+?)\.py:\d+: error: ", done.stdout, re.MULTILINE)
    )
    names = {Path(one or other).name for one, other in refused}
    assert names == {path.stem for path in wrong}, done.stdout
