"""The routes of an OpenAPI document and of a Swagger UI page that needs no internet.

The files of the page come from a Python package. The page's security policy forbids the browser to
fetch anything from elsewhere, and the page has no inline script. Its links are relative, so that it
works for an application under any prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from html import escape
from importlib.metadata import distribution
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from deployments.web.contract import Answer
from deployments.web.errors import JSON
from deployments.web.routes import ScopedRoute

__all__ = ["DOCS_FILES", "docs_routes"]

POLICY = {
    # `data:` is for the arrows and the logo, which are written into the style sheet itself
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
        "form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
CACHED_BY_BROWSERS = {"Cache-Control": "max-age=3600"}
START = "start.js"
DOCS_FILES = {
    START: "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
"""The files of the page, with their media types."""
# It ships Swagger UI 5 in a wheel, and depends on nothing that Ray does not depend on too. Nothing
# is imported from it.
_PACKAGE = "fastapi-offline"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<noscript>
This page needs JavaScript; the document itself is <a href="{openapi_url}">{openapi_url}</a>.
</noscript>
<div id="docs" data-openapi="{openapi_url}"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: document.getElementById("docs").dataset.openapi,
  dom_id: "#docs",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null, // it would send the document to a third party
});
"""


def docs_routes(title: str, document: Callable[[], bytes]) -> list[ScopedRoute]:
    """Serve the OpenAPI document, the page that shows it, and the page's files; all need no key.

    Args:
        title: title of the page.
        document: returns the document as JSON; called at each request, since the document also
            describes these routes.
    """
    page = _PAGE.format(openapi_url="openapi.json", title=escape(title))
    schema = {"type": "object", "required": ["openapi", "info", "paths", "components"]}

    async def show_document(_: Request) -> Response:
        return Response(document(), media_type=JSON)

    async def show_page(_: Request) -> Response:
        return HTMLResponse(page, headers=POLICY)

    return [
        ScopedRoute(
            "/openapi.json",
            show_document,
            needs=None,
            tag="contract",
            summary="Get this document",
            answers={200: Answer(schema, "OpenAPI 3.1")},
        ),
        ScopedRoute(
            "/docs",
            show_page,
            needs=None,
            tag="contract",
            summary="Show a page with this document; it needs no internet",
            answers={200: Answer({"type": "string"}, "The page", media="text/html")},
        ),
        *(_file_route(name, media) for name, media in DOCS_FILES.items()),
    ]


def _file_route(name: str, media: str) -> ScopedRoute:
    headers = POLICY | CACHED_BY_BROWSERS

    async def show_file(_: Request) -> Response:
        # always whole: a caller chooses the number of ranges, and with it the work
        content = _START.encode() if name == START else _shipped(name)
        return Response(content, media_type=media, headers=headers)

    return ScopedRoute(
        f"/docs/{name}",
        show_file,
        needs=None,
        tag="contract",
        summary="Get a file of that page",
        answers={200: Answer({"type": "string"}, "The file", media=media)},
    )


@cache
def _shipped(name: str) -> bytes:
    """Read a file of the page once; together they have 2 MB."""
    return Path(
        str(distribution(_PACKAGE).locate_file(f"fastapi_offline/static/{name}"))
    ).read_bytes()
