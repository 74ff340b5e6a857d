"""The demo's handler: read one file of the standard library and write down what it defines."""

import ast
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from pgwerk import Context
from pgwerk.sync.postgres import connection_string

CREATE = """
    create schema if not exists pgwerk_demo;
    create table if not exists pgwerk_demo.demo_definitions (
        file text not null,
        line integer not null,
        col integer not null,
        kind text not null check (kind in ('function', 'class')),
        name text not null,
        primary key (file, line, col)
    )
"""
"""The application's own table, in a schema of its own: what jobs do is not the queue's business."""

LIBRARY = Path(sysconfig.get_path("stdlib")).resolve()
PACKAGES = Path(sysconfig.get_path("purelib")).resolve()
BESIDE = "site-packages"
"""Paths that begin with this are below `PACKAGES`, all others below `LIBRARY`."""
NOT_OURS = {"site-packages", "dist-packages"}

_local = threading.local()


def index_file(ctx: Context, file: str) -> int:
    """Store the definitions of *file*, a path below the standard library; how many.

    A job may run twice (its worker can die after the work and before the acknowledgement), so this replaces what an
    earlier run wrote, in one transaction. What is no Python any more raises SyntaxError.
    """
    tree = ast.parse(checked_path(file).read_bytes(), filename=file)
    found = [(node.lineno, node.col_offset, kind, name) for node, kind, name in definitions(tree, "")]
    lines, cols, kinds, names = zip(*found, strict=True) if found else ((), (), (), ())
    connection = own_connection(connection_string(ctx.app.sync))
    with connection.transaction():
        connection.execute("delete from pgwerk_demo.demo_definitions where file = %s", [file])
        connection.execute(
            "insert into pgwerk_demo.demo_definitions (file, line, col, kind, name)"
            " select %s, * from unnest(%s::integer[], %s::integer[], %s::text[], %s::text[])"
            " on conflict do nothing",  # the same job at the same time, elsewhere
            [file, list(lines), list(cols), list(kinds), list(names)],
        )
    return len(found)


def checked_path(file: str) -> Path:
    """The file to read; a payload must not lead out of the standard library and the packages beside it."""
    if file.startswith(f"{BESIDE}/"):
        path = (PACKAGES / file.removeprefix(f"{BESIDE}/")).resolve()
        inside = path.is_relative_to(PACKAGES)
    else:
        path = (LIBRARY / file).resolve()
        inside = path.is_relative_to(LIBRARY) and not NOT_OURS & set(path.relative_to(LIBRARY).parts)
    if not inside or path.suffix != ".py":
        raise ValueError(f"{file!r} is not a Python file of the standard library in {LIBRARY}, or beside it")
    return path


def definitions(node: ast.AST, inside: str) -> Iterator[tuple[Any, str, str]]:
    """Each function and class below *node*: the node, its kind, its dotted name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{inside}.{child.name}" if inside else child.name
            yield child, "class" if isinstance(child, ast.ClassDef) else "function", name
            yield from definitions(child, name)
        else:
            yield from definitions(child, inside)


def own_connection(conninfo: str) -> "psycopg.Connection[Any]":
    """This thread's connection to the application's tables; another one when it was lost."""
    connection: psycopg.Connection[Any] | None = getattr(_local, "connection", None)
    if connection is None or connection.closed or connection.broken:
        connection = _local.connection = psycopg.connect(conninfo, autocommit=True)
    return connection
