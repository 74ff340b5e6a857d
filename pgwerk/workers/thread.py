"""The worker of threads in this process."""

from collections.abc import Callable

from pgwerk._handlers.thread import Runner
from pgwerk.workers.crews.base import Crew
from pgwerk.workers.crews.threads import ThreadCrew
from pgwerk.workers.pooled import CrewWorker


class ThreadWorker(CrewWorker):
    """Run jobs in *concurrency* threads of this process."""

    kind = "thread"
    unit = "threads"

    def _crew(self, wake: Callable[[], None]) -> Crew:
        runner = Runner(self.app, self, self.werk.serializer, self.hooks, self.werk.get_job)
        return ThreadCrew(runner, self.concurrency, wake)
