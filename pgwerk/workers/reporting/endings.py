"""What a worker's log says of a job that ended, or that goes back to the queue."""

import logging

from pgwerk._core.job import reason_of
from pgwerk._core.lifecycle import Verdict
from pgwerk._core.outcome import Failed, Interrupted, Succeeded, TimedOut
from pgwerk.workers.crews.base import Finished

logger = logging.getLogger("pgwerk.worker")


def log_end(one: Finished, verdict: Verdict | None) -> None:
    """Log the end of a run; *verdict* is what was written about it, None when it is not known."""
    job = one.claimed.job
    seconds = one.ended - one.began
    match one.outcome:
        case Succeeded():
            logger.debug("job %s (%s) complete in %.3f s", job.id, job.function, seconds)
        case Failed(error=error) | TimedOut(error=error):
            logger.warning(
                "job %s (%s) failed, attempt %d of %d: %s%s",
                job.id, job.function, job.attempts, job.max_attempts, reason_of(error),
                "" if verdict is None else f"; {what_follows(verdict, last=job.attempts >= job.max_attempts)}",
            )  # fmt: skip
        case Interrupted():
            logger.debug("job %s (%s) given back", job.id, job.function)
        case _:
            ended = type(one.outcome).__name__.lower()
            logger.info("job %s (%s) %s after %.3f s", job.id, job.function, ended, seconds)


def what_follows(verdict: Verdict, *, last: bool) -> str:
    """Say whether a failed attempt is followed by another one, and when."""
    if verdict.terminal:
        return "that was the last attempt" if last else "it is not retried"
    if not verdict.delay:
        return "retrying at once"
    return f"retrying in {verdict.delay:.0f} s" if verdict.delay >= 10 else f"retrying in {verdict.delay:.2g} s"


def count(number: int, what: str) -> str:
    """Write a number of things: "1 job", "2 jobs"."""
    return f"{number} {what}" if number == 1 else f"{number:,} {what}s"


def stopping(signal: str, times: int, running: int, patience: float) -> str:
    """Say what a worker does at its first, second … signal to stop, with *running* jobs in progress."""
    if not running:
        return f"{signal}: stopping; no job is running"
    jobs = count(running, "running job")
    if times == 1:
        return (
            f"{signal}: stopping; waiting up to {patience:g} s for {jobs} to finish "
            f"(a second signal interrupts them and gives them back at once)"
        )
    if times == 2:
        return f"{signal} again: interrupting {jobs} and giving them back"
    return f"{signal} again: already giving back {jobs}"
