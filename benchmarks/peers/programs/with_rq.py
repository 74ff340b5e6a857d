"""RQ: SimpleWorker, which does not fork for each job, and no results kept."""

import logging

import commands
from redis import Redis
from rq import Queue, SimpleWorker

JOB = "tally.nothing"


class Peer(commands.Program):
    def open(self) -> None:
        self.queue = Queue(connection=Redis.from_url(self.url))

    def enqueue(self, number: int) -> None:
        _ = self.queue.enqueue(JOB, number, result_ttl=0)

    def enqueue_many(self, count: int) -> None:
        _ = self.queue.enqueue_many([Queue.prepare_data(JOB, args=(number,), result_ttl=0) for number in range(count)])

    def work(self, mode: str) -> None:  # noqa: ARG002  # one way for both
        connection = Redis.from_url(self.url)
        _ = SimpleWorker([Queue(connection=connection)], connection=connection).work(logging_level="WARNING")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    commands.main(Peer())
