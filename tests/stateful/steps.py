"""What people and workers do, one thing after the other, to the real thing and to the model beside it."""

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
)

from pgwerk import Dependency, EnqueueError, Group
from pgwerk._app.clock import new_id
from pgwerk._core.claim import Claimed
from pgwerk._core.enqueue_options import Defaults
from pgwerk._core.enqueueing import new_job
from pgwerk._core.lifecycle import decide
from pgwerk._core.operations import manage
from pgwerk._core.operations import settle as op
from pgwerk._core.operations.recover import recover_worker
from pgwerk._core.operations.turn import Turn, turn
from pgwerk._core.outcome import Aborted, Failed, Interrupted, Lost, Outcome, Overdue, Report, Succeeded, TimedOut
from pgwerk._core.payload import JSONSerializer
from pgwerk._core.procedures import sweep
from pgwerk._core.procedures.enqueue import enqueue_all
from pgwerk._core.statements import admin, claims, permits, running, schema, workers
from tests.fixtures.run import Run
from tests.stateful.life import ENDED, LIMITS, RUNNING, UNSTARTED, Model, Row

DEFAULTS = Defaults(JSONSerializer(), backoff=False)
LIVE = 3600.0

OUTCOMES: dict[str, Outcome] = {
    "succeeded": Succeeded("1"),
    "failed": Failed("Traceback: on purpose", ("builtins.ValueError",)),
    "timed out": TimedOut("timed out"),
    "lost": Lost("worker lost", begun=True),
    "overdue": Overdue("not renewed"),
    "given back": Interrupted(),
    "aborted": Aborted(),
}
OFTEN = [*OUTCOMES, "succeeded", "succeeded", "failed"]


class Steps(RuleBasedStateMachine):
    """Jobs, workers, and people who meddle."""

    face: ClassVar[Run]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.made: list[str] = []
        self.held: dict[str, Claimed] = {}
        self.stale: list[Claimed] = []

    @initialize(salt=st.integers(0, 2**48))
    def begin(self, salt: int) -> None:
        self.salt, self.step = salt, 0
        # Histories of different kinds: with many groups or few, many dependencies or few.
        kind = Random(salt)
        self.grouped, self.linked = kind.choice([0.1, 0.5, 1.0]), kind.choice([0.1, 0.3, 0.7])
        self.run(schema.truncate_all())
        self.hire()

    def hire(self) -> None:
        self.worker = new_id()
        self.run(workers.register(self.worker, "host.1", ["default"], {}, LIVE))

    @rule(seed=st.integers(0, 2**48))
    def something_happens(self, seed: int) -> None:
        """Do what the seed says.

        Rules of their own would all be as likely: more than half of the steps would cancel what others began, and
        few jobs would ever end. Draws of Hypothesis's own resemble each other too much to get far in few histories.
        """
        self.step += 1
        draw = Random(f"{self.salt} {self.step} {seed}")
        # Everything that is possible now, and how often it shall happen.
        steps = {
            self.enqueue: 30,
            self.claim: 20 * bool(self.model.some("queued")),
            self.finish: 25 * bool(self.held),
            self.report_too_late: 8 * bool(self.stale or self.held),
            self.cancel: 4 * bool(self.model.rows),
            self.abort: 4 * bool(self.model.rows),
            self.requeue: 4 * bool(self.model.rows),
            self.delete: 4 * bool(self.model.rows),
            self.become_due: 2 * bool(self.model.some("scheduled")),
            self.expire: 2 * bool(self.model.expirable()),
            self.sweep: 2,
            self.die: 2,
        }
        (step,) = draw.choices(list(steps), list(steps.values()))
        note(step.__name__)
        step(draw)

    # Words --------------------------------------------------------------------------

    def run(self, operation: Any) -> Any:
        return self.face(operation)

    def sql(self, text: str, *params: Any) -> list[tuple[Any, ...]]:
        return self.face.looking.sql(text, *params)

    def look(self) -> None:
        """Read in which order jobs will be taken."""
        rows = self.sql("select id::text, priority, scheduled_at from {jobs}")
        self.model.place = {row[0]: (-row[1], row[2], row[0]) for row in rows}

    def pick(self, draw: Random, *statuses: str) -> Row | None:
        found = self.model.some(*statuses) if statuses else list(self.model.rows.values())
        return draw.choice(found) if found else None

    # Producers ----------------------------------------------------------------------

    def enqueue(self, draw: Random) -> None:
        row = Row(
            id="",
            priority=draw.choice([0, 0, 1]),
            key=draw.choice([None, None, None, "a", "b"]),
            group=draw.choice(["one", "one", "two"]) if draw.random() < self.grouped else None,
            budget=draw.choice([1, 3]),
            later=draw.random() < 0.1,
            ttl=draw.random() < 0.4,
            delete=draw.random() < 0.3,
            edges={parent: draw.random() < 0.5 for parent in self.some_parents(draw)},
        )
        options: dict[str, Any] = {
            "key": row.key, "retry": row.budget, "priority": row.priority, "ttl": 3600 if row.ttl else None,
            "failure_mode": "delete" if row.delete else None,
            "group": Group(row.group, LIMITS[row.group]) if row.group else None,
            "depends_on": [Dependency(parent, allow) for parent, allow in row.edges.items()] or None,
        }  # fmt: skip
        if row.later or draw.random() < 0.3:
            options["at"] = datetime.now(UTC) + timedelta(days=1 if row.later else -1)
        wanted = new_job("app.work", (), {}, options, DEFAULTS, new_id)
        row.id = wanted.id
        note(f"enqueue {row}")
        steps = enqueue_all([wanted], joined=False)
        if not row.edges.keys() <= self.model.rows.keys():
            with pytest.raises(EnqueueError, match="does not exist"):
                self.face.perform(steps)
            return
        (inserted,) = self.face.perform(steps)
        assert self.model.enqueue(row) is (inserted is not None)
        if inserted is not None:
            self.made.append(row.id)

    def some_parents(self, draw: Random) -> list[str]:
        open_ = [row.id for row in self.model.some(*UNSTARTED, *RUNNING)]
        among = open_ if draw.random() < 0.7 else self.made
        wanted = draw.choice([1, 1, 2, 3]) if draw.random() < self.linked else 0
        return draw.sample(among, min(len(among), wanted))

    # Workers ------------------------------------------------------------------------

    def claim(self, draw: Random) -> None:
        self.look()
        count = draw.randint(1, 6)
        taken, denied = self.model.claim(count, self.worker)
        answer = self.run(claims.claim(["default"], count, self.worker))
        assert [one.job.id for one in answer.jobs] == [row.id for row in taken]
        assert list(answer.denied) == sorted({row.group for row in denied if row.group})
        for one in answer.jobs:
            self.model.rows[one.job.id].claim = one.claim
            assert one.job.attempts == self.model.rows[one.job.id].attempts
            if one.job.id in self.held:
                self.stale.append(self.held[one.job.id])
            self.held[one.job.id] = one
        if answer.denied:
            self.run(permits.ready(answer.denied))
            for group in answer.denied:
                self.model.ready(group)

    def finish(self, draw: Random) -> None:
        for _ in range(draw.randint(1, 3)):
            if row := self.pick(draw, *RUNNING):
                self.end(row, draw.choice(OFTEN), quick=draw.random() < 0.5)

    def end(self, row: Row, outcome: str, *, quick: bool) -> None:
        one = self.held.pop(row.id)
        self.stale.append(one)
        self.look()
        self.tell(one, OUTCOMES[outcome], quick=quick)
        self.model.report(row, "failed" if outcome == "timed out" else outcome)

    def tell(self, one: Claimed, outcome: Outcome, *, quick: bool) -> bool:
        """Settle as a worker does; whether it was still its own."""
        told = Report(one.job.id, one.claim, outcome)
        if quick and one.plain and not isinstance(outcome, Aborted):
            closing = [(told, decide(one.job, outcome))]
            answer = self.run(turn(Turn(self.worker, ["default"], closing=closing, parents=[one.job.id])))
            if answer.late:
                self.run(op.release_waiting(answer.late))
            if one.job.id in answer.closed:
                return True
        return one.job.id in self.run(op.settle([told], self.worker))

    def report_too_late(self, draw: Random) -> None:
        # Best of all about a job that somebody else runs by now.
        if not any(one.job.id in self.held for one in self.stale) and self.held:
            self.die(draw)
            self.claim(draw)
        among = [one for one in self.stale if one.job.id in self.held] or self.stale
        if not among:
            return
        one, outcome, quick = draw.choice(among), draw.choice(sorted(OUTCOMES)), draw.random() < 0.6
        note(f"report too late {one.job.id} {one.claim} {outcome} {quick=}")
        before = self.everything()
        assert self.tell(one, OUTCOMES[outcome], quick=quick) is False
        assert self.run(claims_touch(one)) == []
        assert self.everything() == before

    def everything(self) -> list[Any]:
        """All rows of all tables that a report could change."""
        return [self.sql(f"select t.* from {{{name}}} t order by t::text") for name in
                ("jobs", "executions", "job_deps", "permits")]  # fmt: skip

    def die(self, draw: Random) -> None:
        """The worker is gone: somebody saw it, or the sweep finds out."""
        self.look()
        dead, mine = self.worker, [row for row in self.model.some(*RUNNING) if row.worker == self.worker]
        reported = draw.random() < 0.5
        if reported:
            self.run(recover_worker(dead, "killed"))
        else:
            self.sql("update {worker} set expires_at = now() - interval '1 s' where id = %s", dead)
            self.face.perform(sweep.recover(LIVE))
        # In the order of their claims and ids, as they are recovered.
        for row in sorted(mine, key=lambda row: (row.claim or 0, row.id)):
            self.stale.append(self.held.pop(row.id))
        self.recovered(mine)
        if not reported:
            self.offered()
        self.hire()

    def offered(self) -> None:
        """Free permits were offered again, and again: a denial and a release can pass each other.

        What is offered once too often is denied once more. How many that are is nobody's promise: only that nobody is
        offered one who could not take it.
        """
        for group in LIMITS:
            self.model.ready(group)
        competing = {id_ for (id_,) in self.sql("select id::text from {jobs} where not blocked")}
        for row in self.model.rows.values():
            if row.blocked and row.id in competing:
                assert row.status == "queued"
                assert not row.overdue
                row.blocked = False

    def recovered(self, mine: list[Row]) -> None:
        """One claim is one batch: its jobs are settled together."""
        for claim in sorted({row.claim or 0 for row in mine}):
            for row in sorted((row for row in mine if row.claim == claim), key=lambda row: row.id):
                self.model.report(row, "died")

    # People -------------------------------------------------------------------------

    def victim(self, draw: Random) -> Row:
        """Any job; mostly one in an interesting state."""
        row = self.pick(draw, *draw.choice([(), ("queued",), ("waiting",), RUNNING])) or self.pick(draw)
        assert row is not None
        note(str(row))
        return row

    def cancel(self, draw: Random) -> None:
        row = self.victim(draw)
        self.look()
        done = self.run(op.end_unstarted([row.id], Aborted("aborted: cancelled")))
        assert bool(done) is (row.status in UNSTARTED)
        if done:
            self.model.stop(row, "aborted")

    def abort(self, draw: Random) -> None:
        row = self.victim(draw)
        self.look()
        assert self.run(manage.abort(row.id)) is (row.status not in ENDED)
        if row.status in UNSTARTED:
            self.model.stop(row, "aborted")
        elif row.status == "active":
            row.status = "aborting"

    def requeue(self, draw: Random) -> None:
        row = self.victim(draw)
        possible = row.status in ("failed", "aborted")
        assert self.run(admin.requeue([row.id])) == ([row.id] if possible else [])
        if possible:
            self.model.requeue(row)

    def delete(self, draw: Random) -> None:
        row = self.victim(draw)
        self.look()
        assert self.run(manage.delete([row.id])) == [row.id]
        if row.id in self.held:
            self.stale.append(self.held.pop(row.id))
        self.model.delete(row)

    # Time ---------------------------------------------------------------------------

    def become_due(self, draw: Random) -> None:
        row = self.pick(draw, "scheduled")
        assert row is not None
        self.sql("update {jobs} set scheduled_at = now() - interval '1 ms' where id = %s", row.id)
        assert self.face.perform(sweep.promote_due()).moved == 1
        self.model.due(row)

    def expire(self, draw: Random) -> None:
        row = draw.choice(self.model.expirable())
        self.sql("update {jobs} set expires_at = now() - interval '1 ms' where id = %s", row.id)
        row.overdue = True

    def sweep(self, _draw: Random) -> None:
        self.look()
        swept = self.face.perform(sweep.sweep(LIVE, LIVE))
        assert (swept.recovered, swept.promoted, swept.released, swept.deleted) == ([], 0, 0, 0), "nothing was left"
        overdue = [row for row in self.model.some(*UNSTARTED) if row.overdue]
        assert swept.expired == len(overdue)
        for row in overdue:
            if row.id in self.model.rows and row.status in UNSTARTED:
                self.model.stop(row, "aborted")
        self.offered()


def claims_touch(one: Claimed) -> Any:
    """Renew a heartbeat as the worker that had this claim."""
    return running.touch([(one.job.id, one.claim)])
