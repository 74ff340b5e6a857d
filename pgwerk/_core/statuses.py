"""The statuses of a job, and the groups that decisions and SQL speak of.

| status | group | means |
|---|---|---|
| scheduled | unstarted | due later |
| queued | unstarted | a worker may claim it |
| waiting | unstarted | until the jobs it depends on have ended |
| active | running | a worker has claimed it |
| aborting | running | its worker was asked to stop it |
| complete | terminal | succeeded |
| failed | terminal, unsuccessful | no attempts left, or a job it depends on failed |
| aborted | terminal, unsuccessful | cancelled, stopped or expired |

Unstarted jobs become queued, and then active; a running one ends, or is queued or scheduled again. A terminal one stays
as it is until somebody requeues it. SQL writes groups as literals, because partial indexes are matched by them;
`tests/core/test_statuses.py` holds them to these.
"""

UNSTARTED = ("queued", "scheduled", "waiting")
RUNNING = ("active", "aborting")
TERMINAL = ("complete", "failed", "aborted")
UNSUCCESSFUL = ("failed", "aborted")
RELEASED = ("queued", "scheduled")
"""Unstarted, and waiting for nothing but their time."""
EVERY = (*UNSTARTED, *RUNNING, *TERMINAL)
