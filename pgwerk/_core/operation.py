"""Statements and operations: how the core asks, and how an executor answers."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, update_wrapper
from typing import Any, Generic, ParamSpec, Protocol, TypeAlias, TypeVar

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
P = ParamSpec("P")

Row: TypeAlias = "tuple[Any, ...]"
"""One row; its columns are in the order of the statement's own text."""
Rows: TypeAlias = "Sequence[Row]"
Request: TypeAlias = "tuple[Statement[Any], ...]"
"""Statements to send together; one for a plain step."""
Steps: TypeAlias = Generator[Request, Sequence[Any], R]
"""The generator that an operation is made of: it yields requests and is sent the result of each statement."""


class Operation(Protocol[R_co]):
    """Anything an executor can run. Iterating it again walks it again."""

    @property
    def atomic(self) -> bool:
        """Whether its statements must share a transaction."""
        ...

    @property
    def repeatable(self) -> bool:
        """Whether it may run again when it is unknown whether it took effect."""
        ...

    def __iter__(self) -> Generator[Request, Sequence[Any], R_co]: ...


@dataclass(slots=True, eq=False)
class Statement(Generic[R]):
    """A question with a result of type R, and how Postgres answers it: SQL, parameters, the reading of the rows.

    Another backend answers by *factory* and the arguments that it was called with. Not changed after it was made.
    """

    sql: str
    params: Mapping[str, Any]
    read: Callable[[Rows], R]
    repeatable: bool = False
    binary: bool = False
    """Ask for the rows in binary: cheaper where there are many numbers and times, and the same values."""
    texts: bool = False
    """Its parameters are texts, numbers and truth values, each with a cast, and it returns texts (or void) only."""
    alone: bool = False
    """It cannot run inside a transaction."""
    copy: "Copy | None" = None
    """How it is done; then it has no SQL text of its own."""
    factory: "Callable[..., Statement[Any]] | None" = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    @property
    def atomic(self) -> bool:
        """A single statement is a transaction already."""
        return False

    def __iter__(self) -> Steps[R]:
        (result,) = yield (self,)
        answer: R = result
        return answer


@dataclass(frozen=True, slots=True)
class Copy:
    """Rows for COPY … FROM STDIN; both statements share a transaction."""

    sql: str
    lines: Callable[[], Iterable[str]]
    """Texts in COPY's own format, each of any number of lines; called for each try."""
    then: "Statement[Any]"
    """Its rows say what came of it."""
    instead: Callable[[], "Statement[Any]"]
    """The same for connections that take no COPY, and for rows that are there already."""


def statement(factory: Callable[P, Statement[R]]) -> Callable[P, Statement[R]]:
    """Mark a function that makes statements: each of them knows which function made it, and of which arguments."""

    def make(*args: P.args, **kwargs: P.kwargs) -> Statement[R]:
        made = factory(*args, **kwargs)
        made.factory, made.args, made.kwargs = make, args, kwargs
        return made

    return update_wrapper(make, factory)


def together(*statements: Statement[Any]) -> Steps[list[Any]]:
    """Ask for several statements in one round trip; alone on a connection they are all or nothing."""
    if not statements:
        return []
    results = yield statements
    return [result for _, result in zip(statements, results, strict=True)]


@dataclass(frozen=True)
class _Steps(Generic[R]):
    """An operation made from a generator function and its arguments."""

    make: Callable[[], Steps[R]]
    atomic: bool
    repeatable: bool
    name: str = field(default="")

    def __iter__(self) -> Steps[R]:
        return self.make()


def operation(
    *, atomic: bool = True, repeatable: bool = False
) -> Callable[[Callable[P, Steps[R]]], Callable[P, "_Steps[R]"]]:
    """Turn a generator function into a factory of operations.

    Atomic (the default): its statements share one transaction, the caller's if one is open.
    """

    def decorate(function: Callable[P, Steps[R]]) -> Callable[P, _Steps[R]]:
        def factory(*args: P.args, **kwargs: P.kwargs) -> _Steps[R]:
            return _Steps(partial(function, *args, **kwargs), atomic, repeatable, function.__name__)

        update_wrapper(factory, function)
        return factory

    return decorate


@dataclass(frozen=True, slots=True)
class _Around(Generic[R, S]):
    """An operation walked by a generator function that stands between it and its executor."""

    op: Operation[R]
    walk: Callable[[Operation[R]], Steps[S]]

    @property
    def atomic(self) -> bool:
        return self.op.atomic

    @property
    def repeatable(self) -> bool:
        return self.op.repeatable

    def __iter__(self) -> Steps[S]:
        return self.walk(self.op)


def around(op: Operation[R], walk: Callable[[Operation[R]], Steps[S]]) -> Operation[S]:
    """Make an operation of what *walk* makes of the steps of *op*: it may change requests, replies and the result."""
    return _Around(op, walk)


def then(op: Operation[R], use: Callable[[R], S]) -> Operation[S]:
    """Make an operation whose result is what *use* makes of that of *op*; what it raises, the operation raises."""
    return around(op, partial(_use, use))


def _use(use: Callable[[R], S], op: Operation[R]) -> Steps[S]:
    return use((yield from op))


class Walk(Generic[R]):
    """One pass over an operation: hands out requests, takes results.

    `request` is None when it is over; then `result` is set.
    """

    __slots__ = ("_steps", "request", "result")

    request: "Request | None"
    result: R

    def __init__(self, op: Operation[R]) -> None:
        self._steps = iter(op)
        self._advance(partial(next, self._steps))

    def reply(self, results: Sequence[Any]) -> None:
        """Go on with the result of each statement of the last request."""
        self._advance(partial(self._steps.send, results))

    def fail(self, error: Exception) -> None:
        """Raise *error* inside the operation, at the step that asked."""
        self._advance(partial(self._steps.throw, error))

    def _advance(self, step: Callable[[], Request]) -> None:
        try:
            self.request = step()
        except StopIteration as stop:
            self.request, self.result = None, stop.value


# Procedures -------------------------------------------------------------------------


Procedure: TypeAlias = Generator[Operation[Any], Any, R]
"""A generator that yields operations, each run in a transaction of its own, and is sent their results."""


def ask(op: Operation[R]) -> Generator[Operation[Any], Any, R]:
    """Yield an operation from within a procedure and return its result, typed."""
    result: R = yield op
    return result


# Readers that many statements share ------------------------------------------------


def nothing(_rows: Rows) -> None:
    """Read a statement whose rows say nothing."""


def scalar(rows: Rows) -> Any:
    """Read the one value of the one row; None without a row."""
    return rows[0][0] if rows else None


def column(rows: Rows) -> list[Any]:
    """Read the first column."""
    return [row[0] for row in rows]


def count(rows: Rows) -> int:
    """Read how many rows came back."""
    return len(rows)


def found(rows: Rows) -> bool:
    """Read whether any row came back."""
    return bool(rows)
