"""Waiting for the ends of jobs."""

from collections.abc import Sequence

from pgwerk._core.operation import Steps, operation, together
from pgwerk._core.statements import queries
from pgwerk._core.statements.queries import End


@operation(atomic=False, repeatable=True)
def await_ends(ids: Sequence[str]) -> Steps[list[End]]:
    """Mark jobs as awaited, so that their end is told, and read how far they are.

    In two statements: an end that commits while the first one waits for its row is told to nobody, and only a
    snapshot that is taken after that wait shows it.
    """
    _, found = yield from together(queries.mark_awaited(ids), queries.ends(ids))
    return list(found)
