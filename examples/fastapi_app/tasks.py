"""What runs in the background. A worker imports this module; every job gets a session of its own."""

import hashlib
import html
import re
from datetime import UTC, datetime

import httpx

from examples.fastapi_app.database import Page, sessions, werk
from pgwerk import Context, Retry

LATER = 3600.0
"""Seconds until a page is looked at again."""


class Refused(ValueError):
    """The page says that it will not be read: trying again is of no use."""


def fetcher() -> httpx.AsyncClient:
    """What fetches pages; tests put another one in its place."""
    return httpx.AsyncClient(timeout=10, follow_redirects=True)


@werk.task(queue="pages", timeout=30, retry=Retry(max=5, intervals=[5, 30, 300], no_retry=(Refused,)))
async def look(ctx: Context, page_id: int) -> dict[str, object]:
    """Fetch a page and store what it is like. Running twice does no harm, as it must be with jobs."""
    async with sessions()() as session:
        page = await session.get(Page, page_id)
        if page is None:  # deleted meanwhile
            return {}
        url = page.url
    # Without a connection to the database while we wait for somebody else's server.
    async with fetcher() as client:
        answer = await client.get(url)
    ctx.log.info("%s answers %s", url, answer.status_code)
    if answer.status_code in (401, 403, 410):
        raise Refused(f"{url} answers {answer.status_code}")
    _ = answer.raise_for_status()
    async with sessions()() as session:
        page = await session.get(Page, page_id, with_for_update=True)
        if page is None:
            return {}
        fingerprint = hashlib.sha256(answer.content).hexdigest()
        if page.fingerprint not in (None, fingerprint):
            page.changes += 1
        page.status, page.title, page.fingerprint = answer.status_code, title_of(answer.text), fingerprint
        page.looked_at = datetime.now(UTC).replace(tzinfo=None)
        # The next look is enqueued if and only if this one is stored.
        await look.options(delay=LATER, conn=session, key=f"page:{page_id}:{page.looked_at:%Y-%m-%dT%H}").enqueue(
            page_id
        )
        await session.commit()
        return {"status": page.status, "title": page.title, "changes": page.changes}


def title_of(text: str) -> str | None:
    """The title of an HTML page."""
    found = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    return html.unescape(" ".join(found[1].split()))[:200] if found else None
