"""Procrastinate: psycopg, async tasks, ten at a time (neither more nor fewer were quicker), its other defaults."""

import logging
from typing import Any

import commands
import procrastinate
import tally

CONCURRENCY = 10


def make(connector: Any) -> tuple[procrastinate.App, Any]:
    app = procrastinate.App(connector=connector)
    return app, app.task(name="nothing")(tally.nothing_async)


class Peer(commands.Program):
    async def open(self) -> None:
        self.app, self.task = make(procrastinate.PsycopgConnector(conninfo=self.url, min_size=1, max_size=1))
        await self.app.open_async()

    async def close(self) -> None:
        await self.app.close_async()

    async def setup(self) -> None:
        await self.open()
        await self.app.schema_manager.apply_schema_async()
        await self.close()

    async def enqueue(self, number: int) -> None:
        _ = await self.task.defer_async(number=number)

    async def enqueue_many(self, count: int) -> None:
        _ = await self.task.batch_defer_async(*({"number": number} for number in range(count)))

    async def work(self, mode: str) -> None:  # noqa: ARG002  # one way for both
        app, _ = make(procrastinate.PsycopgConnector(conninfo=self.url, min_size=4, max_size=12))
        async with app.open_async():
            await app.run_worker_async(concurrency=CONCURRENCY)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    commands.main(Peer())
