"""The HTTP interface."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Query, Response, status
from pydantic import BaseModel, ConfigDict, HttpUrl
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from examples.fastapi_app.database import Page, session, werk
from examples.fastapi_app.tasks import look
from pgwerk import Job, JobNotFound, JobTimeout

pages = APIRouter(prefix="/pages")
Session = Annotated[AsyncSession, Depends(session)]


class Wanted(BaseModel):
    """A page to watch."""

    url: HttpUrl


class JobState(BaseModel):
    """How far a job is."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    status: str
    attempts: int
    reason: str | None
    """What went wrong, in one line."""


class Seen(BaseModel):
    """A watched page."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    url: str
    status: int | None
    title: str | None
    changes: int
    looked_at: datetime | None
    job: JobState | None = None


@pages.post("", status_code=status.HTTP_201_CREATED)
async def create(
    wanted: Wanted,
    response: Response,
    session: Session,
    wait: Annotated[float, Query(ge=0, le=30, description="seconds to wait for the first look")] = 0,
) -> Seen:
    """Watch a page. The row and its first job are saved in one transaction."""
    url = str(wanted.url)
    known = await session.scalar(select(Page).where(Page.url == url))
    if known is not None:
        response.status_code = status.HTTP_200_OK
        return await _seen(known)
    page = Page(url=url)
    session.add(page)
    await session.flush()
    job = await look.options(conn=session).enqueue(page.id)
    assert job is not None, "it has no key that could exist"
    page.job_id = job.id
    # The page and its job exist from here on. An error anywhere before leaves none of them.
    await session.commit()
    if wait:
        try:
            _ = await werk.wait_for(job, timeout=wait)
        except JobTimeout:
            response.status_code = status.HTTP_202_ACCEPTED
        await session.refresh(page)
    return await _seen(page)


@pages.get("")
async def index(session: Session) -> list[Seen]:
    """List pages, the newest first."""
    found = await session.scalars(select(Page).order_by(Page.id.desc()).limit(50))
    return [Seen.model_validate(page) for page in found]


@pages.get("/{page_id}")
async def show(page_id: int, session: Session) -> Seen:
    """Show a page and how far its first look is."""
    return await _seen(await _page(page_id, session))


@pages.post("/{page_id}/look", status_code=status.HTTP_202_ACCEPTED)
async def look_now(page_id: int, session: Session) -> JobState:
    """Look at a page again, now; asked twice, it is done once."""
    page = await _page(page_id, session)
    key = f"look-now:{page.id}:{page.looked_at}"
    job = await look.options(key=key, conn=session).enqueue(page.id)
    await session.commit()
    if job is None:
        (job,) = await werk.list_jobs(search=key, limit=1)
    return JobState.model_validate(job)


@pages.delete("/{page_id}", status_code=status.HTTP_204_NO_CONTENT)
async def delete(page_id: int, session: Session) -> None:
    """Watch a page no more; a look that is under way finds nothing to store."""
    await session.delete(await _page(page_id, session))
    await session.commit()


async def _page(page_id: int, session: AsyncSession) -> Page:
    page = await session.get(Page, page_id)
    if page is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "no such page")
    return page


async def _seen(page: Page) -> Seen:
    seen = Seen.model_validate(page)
    job = await _job(page)
    seen.job = JobState.model_validate(job) if job is not None else None
    return seen


async def _job(page: Page) -> Job | None:
    """The first look at a page; None when that was purged."""
    try:
        return await werk.get_job(page.job_id) if page.job_id else None
    except JobNotFound:
        return None
