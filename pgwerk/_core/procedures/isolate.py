"""Doing for each what Postgres refuses to do for all: one row must not hold up those beside it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from pgwerk._core.faults import Fault, classify
from pgwerk._core.operation import Operation, Procedure, R, Steps, ask, operation
from pgwerk._core.statements import upkeep
from pgwerk.errors import WerkError

Refused = list[tuple[str, str]]
"""Jobs for which something could not be done, and why."""


def refuses_a_value(error: WerkError) -> bool:
    """Whether Postgres refused what was to be written, and would again; anything else is not about one row."""
    return classify(error) is Fault.VALUE


def is_locked(error: WerkError) -> bool:
    """Whether somebody else held a lock for too long."""
    return classify(error) is Fault.LOCKED


def each(ids: Sequence[str], act: Callable[[Sequence[str]], Operation[R]], refused: Refused) -> Procedure[list[R]]:
    """Run the operation with all ids, or with halves of them until only those are left out that it refuses.

    What somebody else has locked is left for another time.
    """
    results: list[R] = []
    parts = [ids] if ids else []
    while parts:
        part = parts.pop()
        try:
            results.append((yield from ask(act(part))))
        except WerkError as error:
            locked = is_locked(error)
            if not locked and not refuses_a_value(error):
                raise
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            elif not locked:
                refused.append((part[0], str(error)))
    return results


def give_up(refused: Refused) -> Procedure[Refused]:
    """Fail jobs for which something was refused, with the reason; those for which that is refused too come back."""
    left: Refused = []
    for id_, reason in refused:
        _ = yield from each([id_], partial(_give_up, reason), left)
    return left


def _give_up(reason: str, ids: Sequence[str]) -> Operation[list[str]]:
    return upkeep.give_up(ids[0], reason)


class Unclaimable(NamedTuple):
    """Jobs that nobody can claim: those that were failed, and those that Postgres refuses to change at all."""

    failed: Refused
    stuck: Refused


def unclaimable(queues: Sequence[str], limit: int, skip: Sequence[str] = ()) -> Procedure[Unclaimable]:
    """Give up those of the jobs that come next in these queues that cannot be claimed; *skip* are known already."""
    refused: Refused = []
    ids = yield from ask(upkeep.next_in(queues, limit, skip))
    _ = yield from each(ids, _rehearse, refused)
    left = yield from give_up([(id_, f"it could not be claimed: {reason}") for id_, reason in refused])
    stuck = {id_ for id_, _ in left}
    return Unclaimable([one for one in refused if one[0] not in stuck], [one for one in refused if one[0] in stuck])


@operation(repeatable=True)
def _rehearse(ids: Sequence[str]) -> Steps[None]:
    """Write what a claim of these jobs would write, and take it back."""
    taken = yield from upkeep.rehearse_claim(ids)
    yield from upkeep.forget_rehearsal(taken)
