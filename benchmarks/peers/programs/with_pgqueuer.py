"""PGQueuer: asyncpg and uvloop, as its own benchmark has them, and a large batch size."""

import logging
from typing import Any

import asyncpg
import commands
import tally
import uvloop
from pgqueuer import AsyncpgDriver, PgQueuer, Queries

BATCH = 500
"""Jobs claimed at once; it also sets how many outcomes are written at once. More was not quicker."""


class Peer(commands.Program):
    async def open(self) -> None:
        self.connection = await asyncpg.connect(self.url)
        self.queries = Queries(AsyncpgDriver(self.connection))

    async def close(self) -> None:
        await self.connection.close()

    async def setup(self) -> None:
        await self.open()
        await self.queries.install()
        await self.close()

    async def enqueue(self, number: int) -> None:
        _ = await self.queries.enqueue("nothing", str(number).encode())

    async def enqueue_many(self, count: int) -> None:
        _ = await self.queries.enqueue(
            ["nothing"] * count, [str(number).encode() for number in range(count)], [0] * count
        )

    async def work(self, mode: str) -> None:  # noqa: ARG002  # one way for both
        queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(self.url)))

        @queuer.entrypoint("nothing")
        async def nothing(job: Any) -> None:
            tally.nothing(int(job.payload))

        await queuer.run(batch_size=BATCH)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    uvloop.install()
    commands.main(Peer())
