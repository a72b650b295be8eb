"""Requests that the scoring application rejects, and the errors that it responds with."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.asgi_clients import Event, IngressClient
from tests.support.scoring_client import ROUTES, error_of, scored

TWENTY_MB = 20 * 1000 * 1000


SINGLE = [
    pytest.param(b"", 400, "MALFORMED_JSON", "", id="empty"),
    pytest.param(b"{", 400, "MALFORMED_JSON", "", id="cut"),
    pytest.param(b"\xff\xfe{}", 400, "MALFORMED_JSON", "", id="not UTF-8"),
    pytest.param(b'{"kind": "flow", "features": [NaN]}', 400, "MALFORMED_JSON", "", id="NaN"),
    pytest.param(b'{"a":' * 50_000, 400, "MALFORMED_JSON", None, id="nested 50,000 deep"),
    pytest.param(
        {"kind": "flow", "features": [1.0] * 77},
        422,
        "FEATURE_MISMATCH",
        "features",
        id="77 features",
    ),
    pytest.param(
        {"kind": "flow", "features": [1.0] * 79},
        422,
        "FEATURE_MISMATCH",
        "features",
        id="79 features",
    ),
    pytest.param(
        {"kind": "flow", "features": ["1"] * 78},
        422,
        "MALFORMED_EVENT",
        "features[0]",
        id="strings for numbers",
    ),
    pytest.param(
        {"kind": "flow", "features": [None] * 78},
        422,
        "FEATURE_MISMATCH",
        "features.Destination Port",
        id="nulls",
    ),
    pytest.param(
        {"kind": "flow", "features": [1e39] * 78},
        422,
        "FEATURE_MISMATCH",
        "features.Destination Port",
        id="1e39",
    ),
    pytest.param({"kind": "smoke"}, 422, "MALFORMED_EVENT", "kind", id="unknown kind"),
    pytest.param({"name": "sh"}, 422, "MALFORMED_EVENT", "kind", id="no kind"),
    pytest.param(
        {"kind": "process", "name": "sh", "tenant": "x"},
        422,
        "MALFORMED_EVENT",
        "tenant",
        id="unknown field",
    ),
    pytest.param(
        {"kind": "process", "name": "sh", "id": "i" * 300},
        422,
        "MALFORMED_EVENT",
        "id",
        id="huge id",
    ),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), SINGLE)
def test_an_invalid_event_is_rejected_with_code_and_field(
    client: IngressClient, body: object, status: int, code: str, field: str | None
) -> None:
    error_of(client.post("/v1/score", body), status, code, field)


BATCHES = [
    pytest.param(b"", 400, "MALFORMED_JSON", "", id="empty"),
    pytest.param(
        b'{"events": [' + b'{"a":' * 50_000, 400, "MALFORMED_JSON", None, id="nested and cut"
    ),
    pytest.param(
        b'{"events": [' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]}",
        400,
        "MALFORMED_JSON",
        None,
        id="nested 50,000 deep",
    ),
    pytest.param({"events": []}, 422, "MALFORMED_EVENT", "events", id="no events"),
    pytest.param({"events": [{}] * 1001}, 422, "TOO_MANY_EVENTS", "events", id="1,001 bad events"),
    pytest.param(
        {"events": [{"kind": "process", "name": "a"}] * 1001},
        422,
        "TOO_MANY_EVENTS",
        "events",
        id="1,001 good events",
    ),
    pytest.param([], 422, "MALFORMED_EVENT", "", id="a bare list"),
    pytest.param({"event": {}}, 422, "MALFORMED_EVENT", None, id="another name"),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), BATCHES)
def test_an_invalid_batch_is_rejected(
    client: IngressClient, body: object, status: int, code: str, field: str | None
) -> None:
    """S2-17 is one of the cases."""
    error_of(client.post("/v1/score/batch", body), status, code, field)


@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch"])
def test_a_body_of_twenty_megabytes_is_too_large(client: IngressClient, path: str) -> None:
    """P28, fault I2."""
    error_of(client.post(path, b" " * TWENTY_MB), 413, "BODY_TOO_LARGE")


class Pieces:
    """A body that is sent in pieces, without a content length."""

    def __init__(self, count: int, piece: bytes = b" " * 65_536) -> None:
        self.count, self.piece, self.sent = count, piece, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.count):
            self.sent += 1
            yield self.piece


@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch"])
def test_a_chunked_body_without_length_is_rejected_once_it_exceeds_the_limit(
    client: IngressClient, path: str
) -> None:
    pieces = Pieces(TWENTY_MB // 65_536)

    error_of(client.request("POST", path, content=pieces), 413, "BODY_TOO_LARGE")

    assert pieces.sent <= 8 * 1024 * 1024 // 65_536 + 2


def test_a_false_content_length_does_not_bypass_the_limit(client: IngressClient) -> None:
    error_of(
        client.request("POST", "/v1/score", content=Pieces(320), headers={"Content-Length": "10"}),
        413,
        "BODY_TOO_LARGE",
    )


@pytest.mark.parametrize(
    "length", ["9" * 5000, "-1", "x", ""], ids=["5,000 digits", "negative", "a word", "empty"]
)
def test_an_invalid_content_length_is_rejected(
    client: IngressClient, process_events: list[Event], length: str
) -> None:
    """Fault I3: Python refuses to read an integer of 5,000 digits."""
    answer = client.post("/v1/score", process_events[0], headers={"Content-Length": length})

    assert answer.status_code in {200, 400, 413}


def test_a_large_body_within_the_limit_is_read(client: IngressClient) -> None:
    """A command line of 4 MB is cut, flagged and scored.

    If it were rejected, it would evade detection.
    """
    body = scored(
        client, {"kind": "process", "name": "powershell.exe", "command_line": "A" * 4_000_000}
    )

    assert body["flags"] == ["command_line_cut"]


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/scores", "/v2/models", "/etc/passwd", "/../../etc/passwd", "/%2e%2e/x", "/doc"],
)
def test_an_unknown_route_gets_an_error_with_a_code(client: IngressClient, path: str) -> None:
    error_of(client.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path"), [("POST" if method == "GET" else "GET", path) for method, path in ROUTES]
)
def test_another_method_gets_an_error_with_a_code(
    client: IngressClient, method: str, path: str
) -> None:
    error_of(client.request(method, path), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("other", ["PUT", "DELETE", "PATCH"])
def test_no_route_can_be_written_or_deleted(
    client: IngressClient, method: str, path: str, other: str
) -> None:
    """P32."""
    del method
    error_of(client.request(other, path), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("abc-123", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a\tb", False),
        ("ü", False),
    ],
)
def test_a_valid_request_id_is_returned(
    client: IngressClient,
    given: str,
    is_kept: bool,  # noqa: FBT001
) -> None:  # a case
    # httpx takes bytes
    answer = client.get("/nowhere", headers={"X-Request-ID": given.encode("latin-1")})  # type: ignore[dict-item]

    error = error_of(answer, 404, "NOT_FOUND")
    assert (error["request_id"] == given) is is_kept
    assert re.fullmatch(r"[\x20-\x7e]{1,128}", error["request_id"])


@pytest.mark.parametrize(
    "path", ["/v1/score", "/v1/score?explain=true"], ids=["by the shortcut", "by the router"]
)
def test_an_unexpected_error_is_raised_after_its_response(
    client: IngressClient, process_events: list[Event], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Serve counts what the application raises as an error, on the fast path and on the routes.

    A mistake of the caller is not counted.
    """

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(client.ingress._pipelines.default, "score", broken)

    async def ask(body: object) -> httpx.Response:
        transport = httpx.ASGITransport(app=client.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as caller:
            return await caller.post(path, json=body)

    with pytest.raises(RuntimeError):
        client.loop.run(ask(process_events[0]))
    assert client.loop.run(ask({"kind": "process"})).status_code == 422


def test_an_unexpected_error_is_a_500_without_details(
    client: IngressClient,
    process_events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has the details, under the request id that the caller got."""

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("/srv/secret/models.py says hunter2")

    monkeypatch.setattr(client.ingress._pipelines.default, "score", broken)

    for path, body in (
        ("/v1/score", process_events[0]),
        ("/v1/score/batch", {"events": process_events}),
    ):
        answer = client.post(path, body)
        error = error_of(answer, 500, "INTERNAL_ERROR")
        assert "hunter2" not in answer.text
        assert error["request_id"] in {
            getattr(record, "request_id", "") for record in caplog.records
        }
