"""A page to read an OpenAPI document with, that needs no internet: Swagger UI, from files that a Python package ships.

Nothing on it comes from elsewhere, and its policy lets the browser fetch nothing from elsewhere;
there is no script in the page itself.
The links are relative, so the same page serves an application below any prefix.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from importlib.metadata import distribution
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from deployments.web.auth import ScopedRoute

__all__ = ["DOCS_FILES", "docs_routes"]

POLICY = {
    # `data:` is for the arrows and the logo, which are written into the style sheet itself
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
KEPT_BY_BROWSERS = {"Cache-Control": "max-age=3600"}
START = "start.js"
DOCS_FILES = {
    START: "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
"""Of the page, with their media types."""
# of which nothing is imported: it keeps Swagger UI 5 in a wheel, up to date, and asks for nothing
# Ray has not
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
<noscript>This page needs JavaScript; the document itself is <a href="{openapi_url}">{openapi_url}</a>.</noscript>
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
  validatorUrl: null, // it would send the document to a stranger
});
"""


def docs_routes(openapi_url: str, title: str) -> list[ScopedRoute]:
    """`GET /docs`, and the files it needs; open to everybody, as the document is that they show.

    Args:
        openapi_url: of the document, relative to the page: `openapi.json`.
        title: of the page.
    """
    page = _PAGE.format(openapi_url=escape(openapi_url), title=escape(title))

    async def show(_: Request) -> Response:
        return HTMLResponse(page, headers=POLICY)

    def file(name: str) -> Callable[[Request], Awaitable[Response]]:
        async def give(_: Request) -> Response:
            if name == START:
                return Response(
                    _START, media_type=DOCS_FILES[name], headers=POLICY | KEPT_BY_BROWSERS
                )
            return FileResponse(
                _shipped(name), media_type=DOCS_FILES[name], headers=POLICY | KEPT_BY_BROWSERS
            )

        return give

    return [
        ScopedRoute("/docs", show, needs=None),
        *(ScopedRoute(f"/docs/{name}", file(name), needs=None) for name in DOCS_FILES),
    ]


def _shipped(name: str) -> Path:
    return Path(str(distribution(_PACKAGE).locate_file(f"fastapi_offline/static/{name}")))
