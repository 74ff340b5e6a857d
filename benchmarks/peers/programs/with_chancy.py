"""Chancy: the asyncio executor, a high concurrency and eager polling, without which it fetches once a second."""

import logging
from typing import Any

import commands
import tally
from chancy import Chancy, Queue, Worker, job

CONCURRENCY = 5000
"""It is also how many are fetched at once."""

logging.basicConfig(level=logging.WARNING)


@job()
async def nothing(*, number: int) -> None:
    tally.nothing(number)


class Peer(commands.Program):
    def chancy(self, connections: int) -> Any:
        return Chancy(self.url, log=logging.getLogger("chancy"), max_connection_pool_size=connections)

    async def open(self) -> None:
        self.app = await self.chancy(1).__aenter__()

    async def close(self) -> None:
        await self.app.__aexit__(None, None, None)

    async def setup(self) -> None:
        async with self.chancy(4) as app:
            await app.migrate()
            await app.declare(
                Queue(
                    "default",
                    concurrency=CONCURRENCY,
                    executor=Chancy.Executor.Async,
                    polling_interval=1,
                    eager_polling=True,
                )
            )

    def one(self, number: int) -> Any:
        return nothing.job.with_kwargs(number=number)

    async def enqueue(self, number: int) -> None:
        _ = await self.app.push(self.one(number))

    async def enqueue_many(self, count: int) -> None:
        async for _ in self.app.push_many([self.one(number) for number in range(count)]):
            pass

    async def work(self, mode: str) -> None:  # noqa: ARG002  # one way for both
        async with self.chancy(10) as app, Worker(app) as worker:
            await worker.wait_for_shutdown()


if __name__ == "__main__":
    import with_chancy  # jobs are known by the module that they are in, which must not be __main__

    commands.main(with_chancy.Peer())
