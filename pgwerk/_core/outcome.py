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
    """Its worker died, or stopped renewing the job."""

    error: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Its worker gives it back unfinished. *started*: the handler had begun."""

    started: bool = False


@dataclass(frozen=True, slots=True)
class Orphaned:
    """A job that it depends on did not succeed."""

    error: str


Outcome: TypeAlias = Succeeded | Failed | TimedOut | Aborted | Expired | Lost | Interrupted | Orphaned


class Report(NamedTuple):
    """An outcome, the claim it belongs to, and how long ago (seconds) the run began and ended.

    *claim* is the fence: a report about a claim that the job no longer has changes nothing.
    """

    job_id: str
    claim: int
    outcome: Outcome
    began: float = 0.0
    ended: float = 0.0
