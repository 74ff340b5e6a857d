"""One answer for each statement, in a module named like that of the statement; `answer` gives it."""

from pgwerk._memory.answering import answer
from pgwerk._memory.answers import (
    admin,
    claims,
    deletions,
    dependents,
    enqueue,
    permits,
    queries,
    recovery,
    running,
    schema,
    settling,
    upkeep,
    workers,
)

__all__ = [
    "admin",
    "answer",
    "claims",
    "deletions",
    "dependents",
    "enqueue",
    "permits",
    "queries",
    "recovery",
    "running",
    "schema",
    "settling",
    "upkeep",
    "workers",
]
