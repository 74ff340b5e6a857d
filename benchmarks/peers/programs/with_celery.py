"""Celery on Redis: the solo pool (quicker than prefork and threads), a large prefetch, no results, no gossip."""

import commands
import tally
from celery import Celery

app = Celery("bench", broker=commands.Program.url)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=128,
    worker_send_task_events=False,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_pool_limit=1,
)
nothing = app.task(name="nothing")(tally.nothing)


class Peer(commands.Program):
    def enqueue(self, number: int) -> None:
        nothing.delay(number)

    def work(self, mode: str) -> None:  # noqa: ARG002  # one way for both
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
        app.worker_main(["worker", "--pool", "solo", *quiet])


if __name__ == "__main__":
    commands.main(Peer())
