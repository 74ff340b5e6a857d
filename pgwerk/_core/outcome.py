"""What happened to a job: facts, reported by whoever ran it or looked after it."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The handler returned; *result* is its encoded value (JSON text) or None."""

    result: str | None = None


SUCCEEDED = Succeeded()
"""What happens to most jobs: there is no need for one each."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, or could not be called. *final*: trying again makes no sense."""

    error: str
    kinds: tuple[str, ...] = ()
    """The names of the exception's classes, most special first; matched with `no_retry`."""
    final: bool = False


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The handler ran past its timeout."""

    error: str


@dataclass(frozen=True, slots=True)
class Aborted:
    """Somebody asked for it to stop, or it was cancelled before it started."""

    error: str = "aborted"


@dataclass(frozen=True, slots=True)
class Expired:
    """It was not started within its ttl."""

    error: str = "expired"


@dataclass(frozen=True, slots=True)
class Lost:
    """Its worker died."""

    error: str
    begun: bool | None = None
    """Whether the handler had begun; None when nobody saw it, and only the job's row may tell."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """It is past a deadline of its own, and nobody stopped it; or its row says that it runs, and nobody claimed it."""

    error: str
    begun: bool | None = None
    """See `Lost`."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Its worker gives it back unfinished. *started*: the handler had begun."""

    started: bool = False
    blame: str | None = None
    """Why the worker had to end, where that may be the doing of what it ran."""


@dataclass(frozen=True, slots=True)
class ParentFailed:
    """A job that it depends on did not succeed."""

    error: str


Outcome: TypeAlias = Succeeded | Failed | TimedOut | Aborted | Expired | Lost | Overdue | Interrupted | ParentFailed


class Report(NamedTuple):
    """An outcome, the claim it belongs to, and how long ago (seconds) the run began and ended.

    *claim* is the fence: a report about a claim that the job no longer has changes nothing.
    """

    job_id: str
    claim: int
    outcome: Outcome
    began: float = 0.0
    ended: float = 0.0
