"""A machine does what people and workers do, in any order, to jobs and to a small model; the two must agree.

Each run tries other histories. What fails is shrunk and printed as a program that reproduces it.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import invariant, run_state_machine_as_test

from tests.fixtures.run import Run
from tests.stateful.life import LIMITS, RUNNING, UNSTARTED
from tests.stateful.steps import Steps

EXAMPLES = int(os.environ.get("PGWERK_TEST_EXAMPLES", "60"))


class Life(Steps):
    """The steps, and what must be true after each."""

    @invariant()
    def the_model_agrees(self) -> None:
        found_rows = self.face.looking.rows("select *, id::text as name from {jobs}")
        rows = {row["name"]: row for row in found_rows}
        assert rows.keys() == self.model.rows.keys()
        for id_, row in self.model.rows.items():
            found = rows[id_]
            assert (found["status"], found["attempts"], found["max_attempts"]) == (row.status, row.attempts, row.budget)
            assert (found["lost"] or 0, found["watched"] is not None) == (row.lost, row.watched)
            assert found["blocked"] is row.blocked
            if row.status in UNSTARTED:
                assert (found["expires_at"] is not None) is row.expires
            if row.status in RUNNING:
                assert (found["claim_id"], str(found["worker_id"])) == (row.claim, row.worker)
            else:
                assert found["worker_id"] is None

    @invariant()
    def no_group_is_over_its_limit_and_none_is_stranded(self) -> None:
        permits = self.sql("select key, job_id::text from {permits}")
        assert sorted(permits) == sorted((row.group, row.id) for row in self.model.some(*RUNNING) if row.group)
        for group, limit in LIMITS.items():
            running = self.model.running(group)
            assert running <= limit
            blocked = [row for row in self.model.rows.values() if row.group == group and row.blocked]
            # The sweep ends those whose time is over.
            blocked = [row for row in blocked if not row.overdue]
            competing = [row for row in self.model.some("queued") if row.group == group and not row.blocked]
            assert not blocked or running == limit or competing, "a permit is free, and nobody may take it"

    @invariant()
    def no_job_waits_for_what_has_ended(self) -> None:
        stranded = self.sql(
            "select j.id from {jobs} j where j.status = 'waiting' and not exists ("
            "  select from {job_deps} d join {jobs} p on p.id = d.depends_on"
            "  where d.job_id = j.id and not d.satisfied and p.status not in ('complete', 'failed', 'aborted'))"
        )
        assert stranded == []

    @invariant()
    def every_claim_that_was_not_given_back_is_recorded(self) -> None:
        recorded = dict(self.sql("select job_id::text, count(*) from {executions} group by 1"))
        for id_, row in self.model.rows.items():
            charged = row.attempts - (row.status in RUNNING)
            assert recorded.get(id_, 0) == row.recorded == charged + row.free
        assert recorded.keys() <= self.model.rows.keys()

    @invariant()
    def every_running_job_is_found_through_its_claim(self) -> None:
        found = self.sql("select job_id::text from {worker_jobs}")
        assert sorted(id_ for (id_,) in found) == sorted(row.id for row in self.model.some(*RUNNING))


@pytest.fixture
def machine(run: Run) -> type[Life]:
    return type("Life", (Life,), {"face": run})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_jobs_and_the_model_agree_whatever_happens_in_whatever_order(machine: type[Life]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            derandomize=False,
            database=None,
            print_blob=True,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
