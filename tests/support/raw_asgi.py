"""Requests to an ASGI application that no HTTP client would send."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

__all__ = ["RawResponse", "send_raw"]


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A complete response; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def send_raw(
    app: Any,
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]],
    chunks: Sequence[bytes],
    *,
    root_path: str = "",
    keeps_body: bool = True,
) -> RawResponse:
    """Send a request with these headers, checked by nothing, and its body in chunks.

    Without `keeps_body`, the body of the response is dropped as it comes.
    """
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path, errors="replace"),
        "raw_path": path.encode("latin-1", "replace"),
        "root_path": root_path,
        "query_string": query.encode("latin-1", "replace"),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
    }
    left = list(chunks) or [b""]
    status, answered, body = 0, {}, b""

    async def receive() -> dict[str, Any]:
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status, answered, body
        if message["type"] == "http.response.start":
            status = message["status"]
            answered = {
                name.decode(): value.decode("latin-1") for name, value in message["headers"]
            }
        elif message["type"] == "http.response.body" and keeps_body:
            body += message.get("body", b"")

    with suppress(Exception):  # after the response with 500, which the caller sees
        await app(scope, receive, send)
    return RawResponse(status, answered, body)
