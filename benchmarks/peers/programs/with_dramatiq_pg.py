"""dramatiq-pg: Dramatiq with its broker in Postgres, results off, one process of eight threads."""

import os
import sys
from pathlib import Path

import commands
import dramatiq
import psycopg2
import tally
from dramatiq_pg import PostgresBroker
from dramatiq_pg.schema import generate_init_sql

dramatiq.set_broker(PostgresBroker(url=commands.Program.url, results=False))
nothing = dramatiq.actor(tally.nothing, actor_name="nothing")


class Peer(commands.Program):
    def setup(self) -> None:
        with psycopg2.connect(commands.Program.url) as connection, connection.cursor() as cursor:
            cursor.execute(generate_init_sql())

    def enqueue(self, number: int) -> None:
        _ = nothing.send(number)

    def work(self, mode: str) -> None:  # noqa: ARG002  # one way for both
        here = Path(__file__)
        arguments = ["--processes", "1", "--threads", "8", "--skip-logging", "--path", str(here.parent)]
        os.execv(sys.executable, [sys.executable, "-m", "dramatiq", here.stem, *arguments])


if __name__ == "__main__":
    commands.main(Peer())
