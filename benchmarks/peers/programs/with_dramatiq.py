"""Dramatiq on Redis: one process of its command line, with its default of eight threads."""

import os
import sys
from pathlib import Path

import commands
import dramatiq
import tally
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=commands.Program.url))
nothing = dramatiq.actor(tally.nothing, actor_name="nothing")


class Peer(commands.Program):
    def enqueue(self, number: int) -> None:
        _ = nothing.send(number)

    def work(self, mode: str) -> None:  # noqa: ARG002  # one way for both
        here = Path(__file__)
        arguments = ["--processes", "1", "--threads", "8", "--skip-logging", "--path", str(here.parent)]
        os.execv(sys.executable, [sys.executable, "-m", "dramatiq", here.stem, *arguments])


if __name__ == "__main__":
    commands.main(Peer())
