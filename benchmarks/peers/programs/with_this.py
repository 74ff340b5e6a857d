"""pgwerk as it is in this tree, with its default settings; BENCH_PROCESSES children."""

import logging
import os

import commands
import tally

from pgwerk import EnqueueParams, Werk, Worker


class Peer(commands.Program):
    def open(self) -> None:
        self.app = Werk(self.url)
        self.app.connect()

    def close(self) -> None:
        self.app.close()

    def setup(self) -> None:
        self.open()
        self.close()

    def enqueue(self, number: int) -> None:
        _ = self.app.enqueue(tally.nothing, number)

    def enqueue_many(self, count: int) -> None:
        _ = self.app.enqueue_many([EnqueueParams(func=tally.nothing, args=(number,)) for number in range(count)])

    def work(self, mode: str) -> None:  # noqa: ARG002  # one way for both
        Worker(Werk(self.url), processes=int(os.environ["BENCH_PROCESSES"])).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    commands.main(Peer())
