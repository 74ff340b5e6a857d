"""One turn of a worker: what ended is written and what is free is filled, in one round trip and one commit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pgwerk._core.claim import Claim
from pgwerk._core.cursor import Range
from pgwerk._core.lifecycle import Verdict
from pgwerk._core.operation import Statement, Steps, operation, together
from pgwerk._core.outcome import Report
from pgwerk._core.statements import claims, dependents, permits, running, workers


@dataclass
class Turn:
    """What to ask for in one turn."""

    worker: str
    queues: Sequence[str | Range]
    count: int = 0
    in_turns: bool = False
    each: int | None = None
    """Look at no more than this many jobs of any queue."""
    skip: Sequence[str] = ()
    """Jobs that a claim passes over: it was refused for them."""
    closing: Sequence[tuple[Report, Verdict]] = ()
    retiring: Sequence[int] = ()
    """Claims that are settled completely."""
    parents: Sequence[str] = ()
    """Jobs that ended in the turn before: dependents that committed meanwhile are looked for now."""
    keys: Sequence[str] = ()
    """Groups whose permits were released, or denied, in the turn before."""
    dozing: bool | None = None
    """Change whether producers should notify."""


@dataclass
class Answer:
    """What a turn brought."""

    closed: list[str] = field(default_factory=list)
    """Jobs whose end was written."""
    claim: Claim | None = None
    late: list[str] = field(default_factory=list)
    """Waiting jobs to release."""
    readied: int = 0


@operation(atomic=False, repeatable=False)
def turn(ask: Turn) -> Steps[Answer]:
    """Send all that *ask* names in one pipeline, which is one transaction."""
    asked: list[tuple[str, Statement[Any]]] = []
    if ask.closing:
        asked.append(("closed", running.close(ask.closing, ask.worker, whole=False)))
    if ask.retiring:
        asked.append(("retired", running.retire(ask.retiring)))
    if ask.parents:
        asked.append(("late", dependents.late_dependents(ask.parents)))
    if ask.keys:
        asked.append(("readied", permits.ready(ask.keys)))
    if ask.dozing is not None:
        change = workers.want_notify if ask.dozing else workers.stop_notify
        asked.append(("dozing", change(ask.worker)))
    if ask.count:
        claim = claims.claim(ask.queues, ask.count, ask.worker, in_turns=ask.in_turns, each=ask.each, skip=ask.skip)
        asked.append(("claim", claim))
    replies = yield from together(*(statement for _, statement in asked))
    by_name = dict(zip((name for name, _ in asked), replies, strict=True))
    return Answer(
        closed=by_name.get("closed", []),
        claim=by_name.get("claim"),
        late=by_name.get("late", []),
        readied=by_name.get("readied", 0),
    )
