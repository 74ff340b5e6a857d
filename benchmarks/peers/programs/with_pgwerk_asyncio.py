"""The asyncio queue of the same name: its AsyncWorker, by what its documents say."""

import logging

import commands
import tally
from pgwerk import AsyncWorker, EnqueueParams, Werk

CONCURRENCY = 50
"""A little quicker than 10 or 20; its documents name no setting for batches."""


class Peer(commands.Program):
    async def open(self) -> None:
        self.app = Werk(self.url)
        await self.app.connect()

    async def close(self) -> None:
        await self.app.disconnect()

    async def setup(self) -> None:
        await self.open()
        await self.close()

    async def enqueue(self, number: int) -> None:
        _ = await self.app.enqueue(tally.nothing_async, number=number)

    async def enqueue_many(self, count: int) -> None:
        _ = await self.app.enqueue_many(
            [EnqueueParams(func=tally.nothing_async, kwargs={"number": number}) for number in range(count)]
        )

    async def work(self, mode: str) -> None:  # noqa: ARG002  # one way for both
        await self.open()
        await AsyncWorker(app=self.app, concurrency=CONCURRENCY).run()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    commands.main(Peer())
