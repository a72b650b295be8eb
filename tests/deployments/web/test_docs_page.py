"""The page that shows the API needs no internet, and the browser fetches nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from deployments.web.docs_page import DOCS_FILES, docs_routes
from tests.support.asgi_clients import IngressClient


class Links(HTMLParser):
    """Everything that a browser would fetch, and scripts that stand in the page itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.found += [
            value for name in ("src", "href", "data-openapi") if (value := given.get(name))
        ]
        self.inline += [tag for name in given if name.startswith("on") or name == "style"]
        if tag in {"script", "style"} and "src" not in given:
            self.inline.append(tag)


def links_of(page: str) -> Links:
    links = Links()
    links.feed(page)
    return links


def test_everything_that_the_page_needs_is_here(client: IngressClient) -> None:
    page = client.get("/docs")

    links = links_of(page.text)
    assert page.headers["content-type"].startswith("text/html")
    assert links.inline == []
    assert {urljoin("http://axon/docs", link) for link in links.found} == {
        "http://axon/openapi.json",
        *(f"http://axon/docs/{name}" for name in DOCS_FILES),
    }
    for link in links.found:
        assert client.get(urljoin("/docs", link)).status_code == 200


@pytest.mark.parametrize("path", ["/docs", *(f"/docs/{name}" for name in DOCS_FILES)])
def test_its_policy_lets_the_browser_fetch_nothing_from_elsewhere(
    client: IngressClient, path: str
) -> None:
    headers = client.get(path).headers

    assert re.match(r"default-src 'self';", headers["Content-Security-Policy"])
    assert "http" not in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_document_is_sent_to_nobody(client: IngressClient) -> None:
    """Swagger UI would send the document to a validator on the internet."""
    assert "validatorUrl: null" in client.get("/docs/start.js").text


@pytest.mark.parametrize(
    "name",
    ["", "secrets", "redoc.standalone.js", "..%2fcore.py", "%2e%2e/core.py", "../__init__.py"],
)
def test_nothing_else_is_handed_out(client: IngressClient, name: str) -> None:
    assert client.get(f"/docs/{name}").status_code in {307, 404}


async def test_the_same_page_serves_an_application_below_a_prefix() -> None:
    app = Starlette(routes=[Mount("/models", routes=docs_routes("Axon's <models>", lambda: b"{}"))])

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://axon"
    ) as client:
        page = await client.get("/models/docs")
        assert "<title>Axon&#x27;s &lt;models&gt;</title>" in page.text
        links = [urljoin("/models/docs", link) for link in links_of(page.text).found]
        found = {link: (await client.get(link)).status_code for link in links}

    links = [*(f"/models/docs/{name}" for name in DOCS_FILES), "/models/openapi.json"]
    assert found == dict.fromkeys(links, 200)


@pytest.mark.parametrize("asked", ["bytes=0-1", "lines=0-", "bytes=" + "0-," * 5_000 + "0-"])
def test_a_range_gets_the_whole_file(client: IngressClient, asked: str) -> None:
    """The number of ranges would decide the work; an invalid one got an undocumented text."""
    answer = client.get("/docs/favicon.png", headers={"Range": asked})

    assert answer.status_code == 200
    assert answer.content == client.get("/docs/favicon.png").content
