"""What a team would ask of its jobs, through the application's own interface."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from pgwerk import JobStatus
from pgwerk.aio import AsyncWorker, Werk

if TYPE_CHECKING:
    from examples.fastapi_app.tests.conftest import Web

Work = Callable[[], Awaitable[None]]
URL = "https://example.org/"


async def post(client: httpx.AsyncClient, url: str = URL, **params: Any) -> Any:
    answer = await client.post("/pages", json={"url": url}, params=params)
    assert answer.is_success, answer.text
    return answer.json()


async def show(client: httpx.AsyncClient, page: dict[str, Any]) -> Any:
    return (await client.get(f"/pages/{page['id']}")).json()


async def test_a_page_is_looked_at(client: httpx.AsyncClient, web: "Web", work: Work, werk: Werk) -> None:
    web.shows(URL, "<html><title>An &amp; example</title></html>")
    page = await post(client)
    assert page["job"]["status"] == "queued"
    await work()
    found = await show(client, page)
    assert (found["status"], found["title"], found["changes"]) == (200, "An & example", 0)
    assert found["job"] == {"id": page["job"]["id"], "status": "complete", "attempts": 1, "reason": None}
    (later,) = await werk.list_jobs(status="scheduled")
    assert later.args == (page["id"],), "the next look is enqueued"
    assert (await client.get("/pages")).json()[0]["title"] == "An & example"


async def test_an_error_before_the_commit_leaves_neither_page_nor_job(
    client: httpx.AsyncClient, werk: Werk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from examples.fastapi_app.database import Page, sessions  # noqa: PLC0415

    async def broken(_session: AsyncSession) -> None:
        raise RuntimeError("just before the commit")

    with monkeypatch.context() as patch:
        patch.setattr(AsyncSession, "commit", broken)
        assert (await client.post("/pages", json={"url": URL})).status_code == 500
    assert await werk.list_jobs() == []
    async with sessions()() as session:
        assert (await session.scalars(select(Page))).all() == []


async def test_the_same_page_is_watched_once(client: httpx.AsyncClient, werk: Werk) -> None:
    first, second = await post(client), await post(client)
    assert first["id"] == second["id"]
    assert len(await werk.list_jobs()) == 1


async def test_waiting_for_the_first_look(client: httpx.AsyncClient, web: "Web", werk: Werk) -> None:
    web.shows(URL, "<title>Soon</title>")
    worker = AsyncWorker(werk, queues=["pages"])
    running = asyncio.create_task(worker.run())
    page = await post(client, wait=20)
    assert (page["title"], page["job"]["status"]) == ("Soon", "complete")
    worker.stop()
    await running
    answer = await client.post("/pages", json={"url": "https://slow.example/"}, params={"wait": 0.05})
    assert (answer.status_code, answer.json()["job"]["status"]) == (202, "queued")


async def test_a_page_that_does_not_answer_is_tried_again(
    client: httpx.AsyncClient, web: "Web", work: Work, werk: Werk
) -> None:
    page = await post(client)
    await work()
    job = (await show(client, page))["job"]
    assert (job["status"], job["attempts"]) == ("scheduled", 1)
    assert "503" in job["reason"]
    web.shows(URL, "<title>Back</title>")
    assert await werk.update_job(job["id"], delay=0)  # rather than wait five seconds
    await work()
    found = await show(client, page)
    assert (found["title"], found["job"]["status"], found["job"]["attempts"]) == ("Back", "complete", 2)


async def test_a_page_that_refuses_is_not_tried_again(client: httpx.AsyncClient, web: "Web", work: Work) -> None:
    web.shows(URL, "no", status=403)
    page = await post(client)
    await work()
    job = (await show(client, page))["job"]
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert "403" in job["reason"]


async def test_a_change_is_noticed(client: httpx.AsyncClient, web: "Web", work: Work) -> None:
    web.shows(URL, "<title>Old</title>")
    page = await post(client)
    await work()
    web.shows(URL, "<title>New</title>")
    asked = [await client.post(f"/pages/{page['id']}/look") for _ in range(2)]
    assert [answer.status_code for answer in asked] == [202, 202]
    assert asked[0].json()["id"] == asked[1].json()["id"], "asked twice, it is done once"
    await work()
    found = await show(client, page)
    assert (found["title"], found["changes"], len(web.asked)) == ("New", 1, 2)


async def test_a_deleted_page_is_not_looked_at(client: httpx.AsyncClient, web: "Web", work: Work, werk: Werk) -> None:
    page = await post(client)
    assert (await client.delete(f"/pages/{page['id']}")).status_code == 204
    await work()
    assert web.asked == []
    assert (await werk.get_job(page["job"]["id"])).status is JobStatus.COMPLETE
    assert (await client.get(f"/pages/{page['id']}")).status_code == 404


async def test_many_requests_at_once(client: httpx.AsyncClient, web: "Web", work: Work) -> None:
    urls = [f"https://example.org/{number}" for number in range(20)]
    for url in urls:
        web.shows(url, f"<title>{url}</title>")
    made = await asyncio.gather(*(post(client, url) for url in urls))
    await work()
    assert [(await show(client, page))["title"] for page in made] == urls


@pytest.mark.parametrize("wrong", [{}, {"url": "no url"}, {"url": "file:///etc/passwd"}])
async def test_a_wrong_request_is_refused(client: httpx.AsyncClient, werk: Werk, wrong: dict[str, str]) -> None:
    assert (await client.post("/pages", json=wrong)).status_code == 422
    assert await werk.list_jobs() == []
