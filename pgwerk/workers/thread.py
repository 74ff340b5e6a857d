"""The worker of threads in this process."""

from collections.abc import Callable

from pgwerk.sync.runner import Runner
from pgwerk.workers.crew import Crew
from pgwerk.workers.crewed import CrewWorker
from pgwerk.workers.threads import ThreadCrew


class ThreadWorker(CrewWorker):
    """Run jobs in *concurrency* threads of this process."""

    kind = "thread"
    staff = "threads"

    def _crew(self, wake: Callable[[], None]) -> Crew:
        runner = Runner(self.app, self, self.werk.serializer, self.hooks, self.werk.get_job)
        return ThreadCrew(runner, self.concurrency, wake)
