"""`uvicorn examples.fastapi_app.app:app` and `werk worker examples.fastapi_app.app:werk --worker-type async`.

Importing this connects to nothing.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from examples.fastapi_app.database import create_tables, dispose, werk
from examples.fastapi_app.views import pages

__all__ = ["app", "werk"]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Connect when the server starts, and close everything when it ends."""
    async with werk:
        await create_tables()
        yield
    await dispose()


app = FastAPI(title="Watched pages", lifespan=lifespan)
app.include_router(pages)
