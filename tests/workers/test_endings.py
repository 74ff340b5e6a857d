"""The words of a worker's log."""

import pytest

from pgwerk import JobStatus
from pgwerk._core.lifecycle import Verdict
from pgwerk.workers.reporting.endings import count, stopping, what_follows


@pytest.mark.parametrize(
    ("verdict", "last", "text"),
    [
        (Verdict(JobStatus.FAILED), True, "that was the last attempt"),
        (Verdict(JobStatus.FAILED), False, "it is not retried"),
        (Verdict(JobStatus.QUEUED, delay=0.0), False, "retrying at once"),
        (Verdict(JobStatus.SCHEDULED, delay=0.25), False, "retrying in 0.25 s"),
        (Verdict(JobStatus.SCHEDULED, delay=8.04), False, "retrying in 8 s"),
        (Verdict(JobStatus.SCHEDULED, delay=299.6), False, "retrying in 300 s"),
    ],
)
def test_what_follows_a_failed_attempt(verdict: Verdict, last: bool, text: str) -> None:
    assert what_follows(verdict, last=last) == text


def test_signals() -> None:
    assert stopping("SIGINT", 1, 0, 30) == "SIGINT: stopping; no job is running"
    assert "waiting up to 30 s for 1 running job to finish" in stopping("SIGINT", 1, 1, 30.0)
    assert stopping("SIGINT", 2, 3, 30) == "SIGINT again: interrupting 3 running jobs and giving them back"
    assert stopping("SIGTERM", 3, 3, 30) == "SIGTERM again: already giving back 3 running jobs"
    assert (count(1, "job"), count(0, "job"), count(1200, "job")) == ("1 job", "0 jobs", "1,200 jobs")
