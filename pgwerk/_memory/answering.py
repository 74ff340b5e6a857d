"""Which function answers which statement."""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from pgwerk._core.operation import Statement
from pgwerk._memory.store import Store

P = ParamSpec("P")
R = TypeVar("R")

ANSWERS: dict[Callable[..., Any], Callable[..., Any]] = {}
"""By the function that makes the statement."""


def answers(
    factory: Callable[P, Statement[R]],
) -> Callable[[Callable[Concatenate[Store, P], R]], Callable[Concatenate[Store, P], R]]:
    """Mark the answer to the statements that *factory* makes: it takes the store and the factory's own arguments."""

    def register(answer: Callable[Concatenate[Store, P], R]) -> Callable[Concatenate[Store, P], R]:
        ANSWERS[factory] = answer
        return answer

    return register


def answer(store: Store, statement: Statement[R]) -> R:
    """Answer a statement; LookupError for one that only Postgres answers."""
    found = ANSWERS.get(statement.factory) if statement.factory is not None else None
    if found is None:
        name = getattr(statement.factory, "__name__", "a statement without a name")
        raise LookupError(f"{name} has no answer in memory")
    result: R = found(store, *statement.args, **(statement.kwargs or {}))
    return result
