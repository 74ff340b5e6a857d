"""How a worker comes to its end: who asks for it, and what is done about the jobs that it has.

Asked once, it drains: nothing more is claimed, handlers may finish. Asked again, or when that takes too long, handlers
are interrupted and their jobs go back; those that ignore it are left behind. When each phase begins is the agenda's
business; what it takes is here.
"""

import logging
from collections.abc import Callable

from pgwerk._core.agenda import Agenda, Phase, Plan
from pgwerk._handlers.run import monotonic
from pgwerk.errors import WorkerShutdown
from pgwerk.workers.coordinating.gate import Gate
from pgwerk.workers.coordinating.outcomes import Outcomes
from pgwerk.workers.coordinating.wakeup import Wakeup
from pgwerk.workers.crews.base import Crew

logger = logging.getLogger("pgwerk.worker")


class Stopping:
    """Takes a worker out of service."""

    def __init__(self, agenda: Agenda, crew: Crew, gate: Gate, outcomes: Outcomes, wakeup: Wakeup) -> None:
        self._agenda = agenda
        self._crew = crew
        self._gate = gate
        self._outcomes = outcomes
        self._wakeup = wakeup
        self._asked = 0
        """How many times somebody asked."""
        self._told = 0
        """How many times the agenda was told."""
        self._interrupted = False
        self.parent_says: Callable[[], int] = lambda: 0
        """How often a supervisor wants us to stop; once when it is gone."""
        self.job_limit: int | None = None
        self.replaceable = False
        """Whether somebody starts another process when this one ends."""

    def __bool__(self) -> bool:
        return self._asked > 0

    def ask(self) -> None:
        """Ask to drain; asked again, to give back at once. Safe in a signal handler."""
        self._asked += 1
        self._wakeup.force()

    @property
    def pending(self) -> bool:
        """Whether there is something to hear."""
        return self._told < self._asked or (self._crew.broken is not None and self._asked < 2)

    def hear(self) -> None:
        """Tell the agenda of what was asked."""
        if self._asked and not self._told:
            self._crew.stopping()
        self._asked = max(self._asked, self.parent_says())
        while self._told < self._asked:
            self._told += 1
            self._agenda.stop(monotonic())

    def look_at_crew(self) -> None:
        """Ask for the end of a worker whose crew is of no more use."""
        if self._crew.broken is not None and self._asked < 2:
            logger.error("%s", self._crew.broken)
            self._asked = 2

    def look_for_reasons(self) -> None:
        """Ask for it when a fresh process would be better."""
        ran = self._outcomes.settled + len(self._outcomes.unsettled)
        if self.job_limit is not None and ran >= self.job_limit and not self._asked:
            logger.info("ran %d jobs: exiting to be replaced by a fresh process", ran)
            self.ask()
        if self._crew.crippled and self.replaceable and not self._asked:
            self.ask()

    def go_on(self, plan: Plan) -> None:
        """Do what the phase takes."""
        if plan.return_buffer:
            self._outcomes.give_back(self._gate.take_back())
        if plan.phase is Phase.GIVE_BACK and not self._interrupted:
            self._interrupted = True
            self._crew.interrupt(WorkerShutdown)
        if plan.phase is Phase.ABANDON:
            self._crew.abandon()

    def given_up(self) -> bool:
        """Whether the time to stop in good order is over; then what still runs is left behind."""
        if not self._asked or self._agenda.plan(monotonic()).phase is not Phase.ABANDON:
            return False
        self._crew.abandon()
        return True
