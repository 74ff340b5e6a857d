"""Huey on Redis: blocking reads, no results, two threads, no scheduler for periodic tasks."""

import logging

import commands
import tally
from huey import RedisHuey

WORKERS = 2
"""One waits for Redis while the other runs; four were slower."""

huey = RedisHuey("bench", url=commands.Program.url, results=False)
nothing = huey.task(name="nothing")(tally.nothing)


class Peer(commands.Program):
    def enqueue(self, number: int) -> None:
        nothing(number)

    def work(self, mode: str) -> None:  # noqa: ARG002  # one way for both
        huey.create_consumer(workers=WORKERS, worker_type="thread", periodic=False).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    commands.main(Peer())
