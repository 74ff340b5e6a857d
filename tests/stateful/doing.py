"""What the machine of `test_memory` does to both sides, by the roles of those who do it."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, ClassVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pgwerk import Callback, Dependency, Group, Repeat, Retry
from pgwerk._app.clock import new_id
from pgwerk._core.claim import Claim, Claimed
from pgwerk._core.enqueue_options import Defaults
from pgwerk._core.enqueueing import new_job
from pgwerk._core.lifecycle import decide
from pgwerk._core.operation import Procedure, Statement
from pgwerk._core.operations import manage
from pgwerk._core.operations import settle as settling_op
from pgwerk._core.operations.enqueue import NewJob, begin_inline
from pgwerk._core.operations.turn import Turn, turn
from pgwerk._core.operations.wait import await_ends
from pgwerk._core.outcome import Aborted, Failed, Interrupted, Lost, Outcome, Overdue, Report, Succeeded, TimedOut
from pgwerk._core.payload import JSONSerializer
from pgwerk._core.procedures import bulk, isolate, sweep
from pgwerk._core.procedures.enqueue import enqueue_all
from pgwerk._core.statements import (
    admin,
    deletions,
    dependents,
    permits,
    queries,
    recovery,
    running,
    schema,
    upkeep,
    workers,
)
from pgwerk._core.statements.queries import Filter
from pgwerk._core.statements.recovery import FIRST_RUNNABLE
from tests.stateful.sides import Both, Side

DEFAULTS = Defaults(JSONSerializer(), backoff=False)
LIVE = 1.0
DAY = 86400.0
QUEUES = ["default", "mail"]
GROUPS = ["one", "two"]
OUTCOMES: list[Outcome] = [
    Succeeded(), Succeeded("1"), Succeeded("[1.50,1e3]"), Failed("Traceback: on purpose", ("builtins.ValueError",)),
    Failed("final", (), final=True), TimedOut("timed out"), Interrupted(), Interrupted(started=True), Aborted(),
    Interrupted(started=True, blame="it uses too much memory"), Lost("worker lost"), Lost("worker lost", begun=True),
    Overdue("not renewed"), Overdue("not renewed", begun=True),
]  # fmt: skip
RETRIES = [None, 3, Retry(2, [60]), Retry(3, 0, no_retry=(ValueError,)), Retry(2, 0, lost=0), Retry(2, 0, lost=1)]
decode = JSONSerializer().loads


class Doing(RuleBasedStateMachine):
    """Producers, workers, and people who meddle."""

    both: ClassVar[Both]

    @initialize(salt=st.integers(0, 2**48))
    def begin(self, salt: int) -> None:
        self.salt, self.step, self.number = salt, 0, 0
        self.both.do(lambda side: side.run(schema.truncate_all()))
        for side in (self.both.postgres, self.both.memory):
            side.held.clear()
            side.known.clear()
        self.hire()

    def hire(self) -> None:
        self.worker = new_id()
        self.both.do(lambda side: side.run(workers.register(self.worker, "host.1", QUEUES, {"pid": 1, "a": "Ä"}, DAY)))

    @rule(seed=st.integers(0, 2**48))
    def something_happens(self, seed: int) -> None:
        self.step += 1
        draw = Random(f"{self.salt} {self.step} {seed}")
        steps: dict[Callable[[Random], None], int] = {
            self.enqueue: 30, self.claim: 25, self.start: 8, self.finish: 25, self.end_late: 3, self.cancel: 3,
            self.abort: 4, self.delete: 3, self.requeue: 4, self.update: 5, self.touch: 3, self.pause: 4,
            self.sweep: 6, self.pass_time: 8, self.bulk: 3, self.look: 4, self.die: 4, self.fall_silent: 4,
            self.wait: 2, self.inline: 2, self.beat: 3, self.mend: 3, self.forget_claims: 2, self.ask: 6,
        }  # fmt: skip
        # Histories of different kinds: some things happen much more often in one than in another.
        favourites = Random(self.salt).sample(list(steps), 4)
        weights = [weight + 12 * (step in favourites) for step, weight in steps.items()]
        (step,) = draw.choices(list(steps), weights)
        note(step.__name__)
        step(draw)

    # Words --------------------------------------------------------------------------

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return self.both.memory.seen()["jobs"]  # type: ignore[no-any-return]

    def pick(self, draw: Random, *statuses: str) -> str | None:
        """The name of a job, mostly one in these statuses."""
        names = [job["id"] for job in self.jobs if not statuses or job["status"] in statuses or draw.random() < 0.1]
        return draw.choice(names) if names else None

    def held(self, draw: Random, most: int = 3) -> list[str]:
        """The names of some jobs that the worker has."""
        names = sorted(self.both.memory.held)
        return draw.sample(names, min(len(names), draw.randint(1, most)))

    @staticmethod
    def fences(side: Side, names: list[str]) -> list[tuple[str, int]]:
        """Jobs with their claims."""
        return [(side.held[name].id, side.held[name].claim) for name in names]

    # Producers ----------------------------------------------------------------------

    def an_order(self, draw: Random) -> NewJob:
        self.number += 1
        function = f"app.f{self.number}"
        parents = [job["id"] for job in self.jobs]
        wanted = draw.sample(parents, min(len(parents), draw.choice([0, 0, 0, 1, 2])))
        names = {name: id_ for id_, name in self.both.memory.names().items()}
        # Jobs that the database itself inserted have other ids on the other side.
        known = self.both.postgres.names()
        depends = [Dependency(names[name], draw.random() < 0.4) for name in wanted if names[name] in known]
        group = draw.choice([None, None, *GROUPS])
        at_most = {"one": 1, "two": 2}
        options: dict[str, Any] = {
            "queue": draw.choice(QUEUES),
            "priority": draw.choice([0, 0, 1, -1]),
            "key": draw.choice([None, None, None, "a", "b"]),
            "retry": draw.choice(RETRIES),
            "delay": draw.choice([None, None, None, 3600]),
            "ttl": draw.choice([None, None, 7200]),
            "timeout": draw.choice([None, None, 30, 0.25]),
            "heartbeat": draw.choice([None, None, 60]),
            "group": Group(group, at_most[group]) if group else None,
            "meta": draw.choice([None, None, {"tenant": "Ä", "a": 1.0}]),
            "failure_mode": draw.choice([None, None, "delete"]),
            "result_ttl": draw.choice([None, None, 600]),
            "failure_ttl": draw.choice([None, None, 600]),
            "on_success": draw.choice([None, None, None, f"app.s{self.number}"]),
            "on_failure": draw.choice([None, None, Callback(f"app.e{self.number}", 5)]),
            "on_stopped": draw.choice([None, None, None, f"app.a{self.number}"]),
            "repeat": draw.choice([None, None, None, Repeat(2, 0), Repeat(2, 3600), Repeat(2, intervals=[0, 60])]),
            "depends_on": depends or None,
        }
        if draw.random() < 0.4:
            options = {"queue": options["queue"]}
        given = {name: value for name, value in options.items() if value is not None}
        return new_job(function, tuple(draw.choice([(), (1, "x")])), {}, given, DEFAULTS, new_id)

    def enqueue(self, draw: Random) -> None:
        new_jobs = [self.an_order(draw) for _ in range(draw.choice([1, 1, 1, 2, 4]))]
        if draw.random() < 0.1:
            # Once more: their rows are there.
            self.both.do(lambda side: side.perform(enqueue_all(new_jobs, joined=False)))
        joined = draw.random() < 0.2
        self.both.do(lambda side: side.perform(enqueue_all(new_jobs, joined=joined)))

    def inline(self, draw: Random) -> None:
        one = self.an_order(draw)
        values = {name: value for name, value in one.values.items() if name not in ("delay", "at", "waiting")}

        def do(side: Side) -> Any:
            claimed = side.run(begin_inline(NewJob(values), self.worker))
            if claimed is not None:
                side.run(settling_op.settle([Report(claimed.id, claimed.claim, Succeeded("2"))], self.worker))
                side.run(running.retire([claimed.claim]))
            return claimed

        self.both.do(do)

    # Workers ------------------------------------------------------------------------

    def claim(self, draw: Random) -> None:
        count, in_turns = draw.randint(1, 6), draw.random() < 0.3
        each = draw.choice([None, None, 1, 2])
        queues = draw.sample(QUEUES, draw.choice([1, 2]))
        dozing = draw.choice([None, None, True, False])

        def do(side: Side) -> Claim | None:
            ask = Turn(self.worker, queues, count, in_turns=in_turns, each=each, dozing=dozing)
            claim: Claim | None = side.run(turn(ask)).claim
            names = side.names()
            side.held |= {names[one.id]: one for one in (claim.jobs if claim is not None else ())}
            return claim

        self.both.do(do)
        self.both.do(lambda side: side.run(permits.ready(GROUPS)))

    def start(self, draw: Random) -> None:
        names = self.held(draw)
        act: Callable[[list[tuple[str, int]]], Any] = draw.choice([
            running.begin, running.begin, running.restart_clocks, running.return_unread,
        ])  # fmt: skip
        self.both.do(lambda side: sorted(side.words(side.run(act(self.fences(side, names))) or [])))

    def finish(self, draw: Random) -> None:
        some = self.held(draw)
        if not some:
            return
        outcomes = {name: draw.choice(OUTCOMES) for name in some}
        whole, max_lost = draw.random() < 0.5, draw.choice([0, 1, 3])
        self.both.do(
            lambda side: self.tell(side, {name: side.held.pop(name) for name in some}, outcomes, max_lost, whole=whole)
        )

    def tell(
        self, side: Side, held: dict[str, Claimed], outcomes: dict[str, Outcome], max_lost: int, *, whole: bool
    ) -> Any:
        reports = {name: Report(one.id, one.claim, outcomes[name], 0.2, 0.1) for name, one in held.items()}
        if whole:
            return side.run(settling_op.settle(list(reports.values()), self.worker, 0.0, max_lost))
        entries = [
            (reports[name], decide(one.job, outcomes[name], 0.0, max_lost))
            for name, one in held.items()
            if one.plain and not isinstance(outcomes[name], Aborted)
        ]
        ids = [one.id for one in held.values()]
        answer = side.run(turn(Turn(self.worker, [], closing=entries, parents=ids, keys=GROUPS)))
        left = [report for report in reports.values() if report.job_id not in answer.closed]
        late = sorted(side.run(settling_op.release_waiting(sorted(answer.late))) for _ in range(bool(answer.late)))
        return [answer.readied, late, side.run(settling_op.settle(left, self.worker, 0.0, max_lost))]

    def end_late(self, draw: Random) -> None:
        """Report with a claim that the job does not have any more."""
        name = self.pick(draw, "active", "queued")
        if name is not None:
            report = draw.choice(OUTCOMES)
            self.both.do(lambda side: side.run(settling_op.settle([Report(side.id_of(name), 10**9, report)], None)))
            self.both.do(lambda side: side.run(running.begin([(side.id_of(name), 10**9)])))

    def touch(self, draw: Random) -> None:
        for name in self.held(draw, 1):
            self.renew(name)
        self.both.do(lambda side: sorted(side.words(side.run(running.aborting(list(side.known))))))

    def renew(self, name: str) -> None:
        self.both.do(lambda side: side.run(running.touch(self.fences(side, [name]))))
        self.both.do(lambda side: side.run(running.progress(*self.fences(side, [name])[0], "[1e1]")))
        self.both.do(lambda side: side.run(admin.touch_any(side.id_of(name))))

    def beat(self, draw: Random) -> None:
        change = draw.choice([workers.want_notify, workers.stop_notify])
        self.both.do(lambda side: side.run(change(self.worker)))
        self.both.do(lambda side: side.run(workers.heartbeat(self.worker, DAY)))
        self.both.do(lambda side: side.run(workers.renew([self.worker, new_id()], DAY)))
        self.both.do(lambda side: [id_ for id_, _ in sorted(side.run(running.stray(self.worker, [])))])

    # Losses -------------------------------------------------------------------------

    def die(self, draw: Random) -> None:
        """Somebody saw the worker die, and perhaps which of its jobs had begun."""
        dead, begun = self.worker, {name: draw.random() < 0.3 for name in self.held(draw)}
        known, max_lost = draw.random() < 0.6, draw.choice([0, 1, 3])
        self.hire()

        def recover(side: Side) -> Any:
            cells = {(side.held[name].id, side.held[name].claim): overdue for name, overdue in begun.items()}
            return sorted(side.perform(sweep.recover_dead(dead, "killed", cells if known else None, max_lost)))

        self.both.do(lambda side: sorted(side.words(recover(side))))
        self.both.do(lambda side: side.run(workers.forget(dead)))
        self.drop_held()

    def fall_silent(self, draw: Random) -> None:
        """The worker stops to be heard of, or leaves; whoever sweeps may or may not have been there to notice."""
        dead, max_lost = self.worker, draw.choice([0, 3])
        seen = draw.choice([None, 0.0, 0.5, 10.0])
        leaves, unknown = draw.random() < 0.3, draw.random() < 0.2
        self.hire()
        for side in (self.both.postgres, self.both.memory):
            if leaves or unknown:
                _ = side.run(workers.leave(dead))
            else:
                side.shift_worker(dead, 3.0, 2.0)
            if unknown:
                side.shift_worker(dead, 2 * DAY, 2 * DAY)
                side.shift_claims(dead, 5.0)
        for _ in range(2):
            self.both.do(lambda side: self.swept(side, sweep.recover(LIVE, max_lost, seen=seen)))
            self.both.do(lambda side: side.run(workers.living(dead)))
            for side in (self.both.postgres, self.both.memory):
                side.shift_silence(dead, 2.0)
        if draw.random() < 0.3:
            self.both.do(lambda side: side.run(workers.heartbeat(dead, DAY)))
        self.drop_held()

    def drop_held(self) -> None:
        for side in (self.both.postgres, self.both.memory):
            side.held.clear()

    def swept(self, side: Side, steps: Any) -> Any:
        """What a sweep found; of jobs, in any order."""
        found = side.perform(steps)
        found.recovered = sorted(side.words(found.recovered))
        return found

    def forget_claims(self, draw: Random) -> None:
        """Rows are active that nobody claimed."""
        names = self.held(draw)
        column = draw.choice(["started_at", "touched_at"])
        self.both.do(lambda side: side.run(running.retire([claim for _, claim in self.fences(side, names)])))
        for side in (self.both.postgres, self.both.memory):
            for name in names:
                side.shift(side.held[name].id, column, 60.0)
        stuck = draw.choice([30.0, DAY])
        self.both.do(lambda side: self.swept(side, sweep.sweep(LIVE, stuck)))

    # People -------------------------------------------------------------------------

    def cancel(self, draw: Random) -> None:
        if name := self.pick(draw, "queued", "scheduled", "waiting"):
            self.both.do(lambda side: side.run(settling_op.end_unstarted([side.id_of(name)], Aborted("cancelled"))))

    def abort(self, draw: Random) -> None:
        if name := self.pick(draw, "active", "queued", "waiting"):
            self.both.do(lambda side: side.run(manage.abort(side.id_of(name))))
            self.both.do(lambda side: side.run(admin.start_abort(side.id_of(name))))

    def delete(self, draw: Random) -> None:
        if name := self.pick(draw):
            self.both.do(lambda side: side.run(manage.delete([side.id_of(name)])))

    def requeue(self, draw: Random) -> None:
        if name := self.pick(draw, "failed", "aborted"):
            self.both.do(lambda side: side.run(admin.requeue([side.id_of(name)])))

    def update(self, draw: Random) -> None:
        name = self.pick(draw, "queued", "scheduled", "waiting")
        if name is None:
            return
        changes: dict[str, Any] = {
            "at": None,
            "delay": draw.choice([None, 0.0, 3600.0, 1e11, 3e11, 1e14]),
            "priority": draw.choice([None, 2, 40000]),
            "meta": draw.choice([None, '{"x":1}', '{"x":']),
        }
        self.both.do(lambda side: side.run(manage.update(side.id_of(name), **changes)))

    def pause(self, draw: Random) -> None:
        queue, reason = draw.choice(QUEUES), draw.choice([None, "why not"])
        if not self.both.memory.store.is_paused(queue) or draw.random() < 0.2:
            self.both.do(lambda side: side.run(manage.pause(queue, reason)))
        else:
            self.both.do(lambda side: side.run(admin.resume(queue)))
        self.both.do(lambda side: side.run(admin.competing(queue)))

    def bulk(self, draw: Random) -> None:
        queue = draw.choice([None, *QUEUES])
        steps: Callable[[], Procedure[Any]] = draw.choice([
            lambda: bulk.requeue_all(queue, None), lambda: bulk.cancel_all(queue),
            lambda: bulk.requeue_all(queue, "app.f1"), lambda: bulk.purge(["complete", "failed"], 1.0),
        ])  # fmt: skip
        self.both.do(lambda side: side.run(admin.count_purgeable(["complete", "failed"], 1.0)))
        self.both.do(lambda side: side.perform(steps()))

    def mend(self, draw: Random) -> None:
        """What is done when Postgres refuses something."""
        name, limit = self.pick(draw), draw.randint(1, 3)
        self.both.do(lambda side: side.perform(isolate.unclaimable(QUEUES, 3)))
        self.both.do(lambda side: side.run(upkeep.promote_these(side.run(upkeep.due(limit)))))
        self.both.do(lambda side: side.run(running.locked(list(side.known))))
        self.both.do(lambda side: side.run(permits.groups_of(list(side.known))))
        names = self.held(draw, 1)
        if names and draw.random() < 0.4:
            # Its permit is left behind.
            self.both.do(lambda side: side.run(upkeep.give_up(*self.fences(side, names)[0][:1], "no", None)))
        elif name is not None and draw.random() < 0.4:
            self.both.do(lambda side: side.run(upkeep.give_up(side.id_of(name), "it holds up others", None)))
        elif names:
            self.both.do(lambda side: side.run(running.fail_unread(self.fences(side, names), "it cannot be read")))

    # Time ---------------------------------------------------------------------------

    def pass_time(self, draw: Random) -> None:
        column, unit, statuses = draw.choice([
            ("scheduled_at", None, ("scheduled",)), ("expires_at", "ttl", ("queued", "scheduled", "waiting")),
            ("expires_at", None, ("complete", "failed", "aborted")), ("touched_at", "heartbeat_secs", ("active",)),
            ("started_at", "timeout_secs", ("active", "aborting")), ("completed_at", None, ("failed",)),
        ])  # fmt: skip
        fitting = [job for job in self.jobs if job[column] is not None and (unit is None or job[unit] is not None)]
        likely = [job for job in fitting if job["status"] in statuses]
        some = [job["id"] for job in (likely if likely and draw.random() < 0.8 else fitting)]
        if not some:
            return
        names = draw.sample(some, min(len(some), draw.randint(1, 3)))
        for side in (self.both.postgres, self.both.memory):
            for name in names:
                side.shift(side.id_of(name), column, DAY)
            side.shift_claims(self.worker, 120.0)
        if draw.random() < 0.8:
            self.sweep(draw)

    def sweep(self, draw: Random) -> None:
        steps: Callable[[], Procedure[Any]] = draw.choice([
            lambda: sweep.sweep(LIVE, LIVE), lambda: sweep.sweep(LIVE, None), lambda: sweep.sweep(LIVE, DAY, 0),
            lambda: sweep.sweep(LIVE, None), lambda: sweep.sweep(LIVE, DAY), lambda: sweep.recover(LIVE, 0),
            lambda: sweep.recover(LIVE, seen=None), lambda: sweep.recover(LIVE, seen=5.0),
        ])  # fmt: skip
        limit = draw.randint(1, 2)
        self.both.do(lambda side: side.run(upkeep.promote(limit)))
        self.both.do(lambda side: self.swept(side, steps()))
        self.both.do(lambda side: side.perform(sweep.promote_due()))

    # Looking ------------------------------------------------------------------------

    def ask(self, draw: Random) -> None:
        """Ask directly what operations ask in the middle of others."""
        seen, stuck = draw.choice([None, 0.0, 45.0, 1e6]), draw.choice([30.0, DAY])
        questions: list[Callable[[list[str]], Statement[Any]]] = [
            dependents.doomed, dependents.late_dependents, dependents.lock_dependents, dependents.lock_waiting,
            deletions.lock_outlived, deletions.finished_callbacks, deletions.unheld, queries.ends,
            lambda _: recovery.overdue(1000, seen), lambda _: upkeep.due(1000),
            lambda _: upkeep.waiting(sweep.NO_ID, 1000), lambda _: upkeep.next_in(QUEUES, 1000),
            lambda _: permits.blocked_groups("", 1000), lambda _: workers.lost_claims(LIVE, 1000, seen),
        ]  # fmt: skip
        for question in questions:
            self.both.do(partial(self.answer, question))
        # Where it stopped is a time in the words of each of them.
        self.both.do(
            lambda side: sorted(map(str, side.words(side.run(recovery.unclaimed(stuck, FIRST_RUNNABLE, 1000)).found)))
        )

    def answer(self, question: Callable[[list[str]], Statement[Any]], side: Side) -> Any:
        """An answer in any order; claims by whether there is one."""
        found = side.words(side.run(question(sorted(side.known))))
        return sorted(str([part > 0 if type(part) is int else part for part in row]) for row in found)

    def wait(self, draw: Random) -> None:
        if name := self.pick(draw):
            self.both.do(lambda side: side.run(await_ends([side.id_of(name)])))

    def look(self, draw: Random) -> None:
        name = self.pick(draw)
        fitting = draw.choice([
            Filter(queues=["mail"]), Filter(statuses=["failed", "aborted"]), Filter(search="P.F"), Filter(search="_"),
            Filter(search="Ä"), Filter(retried=True), Filter(retried=False), Filter(statuses=["waiting"]),
            Filter(worker_id=self.worker), Filter(functions=["app.f1"]), Filter(statuses=["scheduled"], search="app"),
        ])  # fmt: skip

        def jobs(side: Side) -> Any:
            found = side.run(queries.list_jobs(fitting, 1000, 0, decode))
            return sorted(side.words(found), key=lambda job: job["id"])

        self.both.do(jobs)
        self.both.do(lambda side: side.run(queries.queue_stats()))
        self.both.do(lambda side: side.run(queries.get_by_key("a", decode)))
        self.both.do(lambda side: side.run(workers.roster()))
        if name is not None:
            self.both.do(lambda side: side.run(queries.executions(side.id_of(name), decode)))
            self.both.do(lambda side: side.run(queries.get(side.id_of(name), decode)))
            self.both.do(lambda side: side.run(queries.get_many([side.id_of(name)], decode)))
            self.both.do(lambda side: sorted(side.words(side.run(queries.dependencies(side.id_of(name))))))
