"""What keeps the layers apart: the import contracts, and what no linter sees."""

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgwerk._core.operation import Statement

ROOT = Path(__file__).parent.parent
CORE = ROOT / "pgwerk" / "_core"
FILES = sorted(CORE.rglob("*.py"))
CLOCKS = {
    "now",
    "today",
    "utcnow",
    "time",
    "monotonic",
    "perf_counter",
    "time_ns",
    "localtime",
    "urandom",
    "random",
    "uuid4",
}

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))


def test_the_import_contracts_hold() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [program, "--config", "setup.cfg", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@each_file
def test_the_core_reads_no_clock_and_draws_no_number(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {
        (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")) for call in calls
    }
    # datetime.time() is a type, and only named in patterns of the payload.
    assert not names & CLOCKS - ({"time"} if path.name == "payload.py" else set())


def generators(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """The generator functions of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(
            isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node)
        ):
            yield node


def dropped(tree: ast.Module) -> list[str]:
    """Calls in generators whose result nobody takes: nearly always a forgotten `yield from`."""
    stepwise = {function.name for function in generators(tree)}
    plain = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} - stepwise
    return [
        ast.unparse(node.value)
        for function in generators(tree)
        for node in ast.walk(function)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not harmless(node.value.func, plain)
    ]


def harmless(called: ast.expr, plain: set[str]) -> bool:
    """Methods that change a list or set in place, and checks of the same module that are no generators."""
    if isinstance(called, ast.Attribute):
        return called.attr in {"append", "extend", "add", "update", "sort"}
    return isinstance(called, ast.Name) and called.id in plain


@each_file
def test_no_step_is_forgotten(path: Path) -> None:
    assert dropped(ast.parse(path.read_text())) == []


def test_a_forgotten_step_would_be_found() -> None:
    text = """
def check(): raise ValueError
def steps(): yield 1
def f():
    check()
    steps()
    close(1)
    yield from close(2)
    x.append(3)
    st.close(4)
"""
    assert dropped(ast.parse(text)) == ["steps()", "close(1)", "st.close(4)"]


def test_some_operations_were_looked_at() -> None:
    assert sum(1 for path in FILES for _ in generators(ast.parse(path.read_text()))) > 25


@pytest.mark.parametrize("name", ["admin", "claims", "enqueue", "queries", "schema", "settling", "upkeep", "workers"])
def test_what_statements_return_is_annotated_as_a_statement(name: str) -> None:
    module = importlib.import_module(f"pgwerk._core.statements.{name}")
    own = [one for one in vars(module).values() if inspect.isfunction(one) and one.__module__ == module.__name__]
    factories = [function for function in own if not function.__name__.startswith("_")]
    returned = [inspect.signature(function).return_annotation for function in factories]
    statements = [found for found in returned if getattr(found, "__origin__", None) is Statement]
    assert statements
    assert all(function.__doc__ for function in factories)


def test_only_the_executors_and_their_helpers_import_the_driver() -> None:
    importers = set()
    for path in (ROOT / "pgwerk").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] in ("psycopg", "psycopg_pool") for name in names):
                importers.add(str(path.relative_to(ROOT / "pgwerk")).split("/")[0])
    assert "_core" not in importers
    assert not {"errors.py", "config.py", "__init__.py", "_names.py", "_application.py"} & importers
