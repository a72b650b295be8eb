"""Hostile bodies at every route that reads one (I1 to I5, P27, P28).

They are rejected with a code, never a 5xx, and need no more memory than a few times their size.
"""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from deployments.scoring import wire
from deployments.scoring.examples import BENIGN
from deployments.scoring.predict_wire import parse_flow, parse_flows
from ensemble.errors import EventError
from tests.support.asgi_clients import IngressClient, OpenIngress

MIB = 1 << 20
LIMIT = 8 * MIB


@dataclass(frozen=True)
class Target:
    """A route that reads a body.

    Attributes:
        put: makes a body with the features of a flow.
        parse: the parser of the route.
    """

    path: str
    put: Callable[[Any], Any]
    parse: Callable[[bytes], object]
    is_batch: bool = False


TARGETS = [
    Target("/v1/score", lambda features: {"kind": "flow", "features": features}, wire.parse_event),
    Target(
        "/v1/score/batch",
        lambda features: {"events": [{"kind": "flow", "features": features}]},
        lambda body: wire.parse_batch(body, limit=1000),
        is_batch=True,
    ),
    Target("/predict", lambda features: {"features": features}, parse_flow),
    Target(
        "/predict/batch",
        lambda features: {"flows": [{"features": features}]},
        lambda body: parse_flows(body, limit=1000),
        is_batch=True,
    ),
]
EACH = pytest.mark.parametrize("target", [pytest.param(one, id=one.path) for one in TARGETS])
PREDICTIONS = pytest.mark.parametrize(
    "target", [pytest.param(one, id=one.path) for one in TARGETS if "predict" in one.path]
)


@pytest.fixture
def attacked(open_classifier: OpenIngress) -> IngressClient:
    return open_classifier()


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return status and code of an error, after checks that hold for every error."""
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert error["request_id"] == answer.headers["X-Request-ID"]
    assert not any(
        inside in answer.text
        for inside in ("Traceback", "/home", ".py", "site-packages", "msgspec")
    )
    assert len(answer.text) < 1000
    return answer.status_code, error["code"]


def line_of(answer: httpx.Response) -> str:
    """Return the code in the only line of a batch."""
    assert answer.status_code == 200, answer.text[:300]
    (line,) = answer.json().get("results") or answer.json()["predictions"]
    return str(line["error"]["code"])


def refused_as(client: IngressClient, target: Target, body: bytes | Any) -> str:
    """Return the code of a rejected request, or of its only line."""
    answer = client.post(target.path, body)
    return line_of(answer) if answer.status_code == 200 else refusal(answer)[1]


# -- I1: malformed

NO_JSON = [
    pytest.param(b"", id="empty"),
    pytest.param(b" \n\t ", id="blanks"),
    pytest.param(b"\xef\xbb\xbf{}", id="a byte order mark"),
    pytest.param(b"{}{}", id="two documents"),
    pytest.param(b"{} trailing", id="text after it"),
    pytest.param(b"\xff\xfe{\x00}\x00", id="UTF-16"),
    pytest.param(b"{'features': []}", id="single quotes"),
    pytest.param(b'{"features": [1,]}', id="an extra comma"),
    pytest.param(b'{"features": [01]}', id="a leading zero"),
    pytest.param(b'{"features": [1] /* why not */}', id="a comment"),
    pytest.param(b'{"features": [Infinity]}', id="Infinity"),
    pytest.param(b'{"features": [-NaN]}', id="NaN"),
    pytest.param(b'{"features": [0x10]}', id="hexadecimal"),
    pytest.param(b'{"a": "\x00"}', id="a raw control character"),
    pytest.param(b'{"a": "\xc3\x28"}', id="broken UTF-8"),
    pytest.param(b"\x00" * 64, id="zeros"),
    pytest.param(gzip.compress(b"{}" * 1000), id="compressed without a header"),
]


@EACH
@pytest.mark.parametrize("body", NO_JSON)
def test_a_body_that_is_not_json_is_rejected(
    attacked: IngressClient, target: Target, body: bytes
) -> None:
    status, code = refusal(attacked.post(target.path, body))

    assert (status, code) in {(400, "MALFORMED_JSON"), (422, "MALFORMED_EVENT")}


@EACH
def test_a_duplicate_name_is_rejected(attacked: IngressClient, target: Target) -> None:
    """A proxy that inspected the body may have used the first value."""
    good, evil = json.dumps(BENIGN), json.dumps([0] * 78)
    zeros = ", ".join(f"{json.dumps(name)}: 0" for name in wire.flow.FEATURE_NAMES)
    twice = [
        f'"features": {good}, "features": {evil}',
        f'"features": {good}, "\\u0066eatures": {evil}',
        f'"features": {{{zeros}, "Flow Duration": 1}}',
    ]
    for features in twice:
        body = json.dumps(target.put("HERE")).replace('"features": "HERE"', features)
        assert refused_as(attacked, target, body.encode()) == "MALFORMED_JSON"


@PREDICTIONS
def test_a_model_that_is_named_twice_is_rejected(attacked: IngressClient, target: Target) -> None:
    start = json.dumps(target.put(BENIGN))[:-1]
    names = f'{start}, "model_name": "decision_tree", "model_name": "random_forest"}}'
    assert refusal(attacked.post(target.path, names.encode())) == (400, "MALFORMED_JSON")


@pytest.mark.parametrize(
    "event", ['"name": "sh", "name": "evil"', '"name": "sh", "host": "a", "h\\u006fst": "b"']
)
@pytest.mark.parametrize("target", TARGETS[:2], ids=lambda target: str(target.path))
def test_a_duplicate_name_of_a_process_start_is_rejected(
    attacked: IngressClient, event: str, target: Target
) -> None:
    """C16: two readers, two meanings."""
    one = f'{{"kind": "process", {event}}}'
    body = f'{{"events": [{one}]}}' if target.is_batch else one

    assert refused_as(attacked, target, body.encode()) == "MALFORMED_JSON"


def test_a_batch_that_is_given_twice_is_rejected(attacked: IngressClient) -> None:
    body = b'{"events": [{"kind": "process", "name": "a"}], "events": []}'

    assert refusal(attacked.post("/v1/score/batch", body)) == (400, "MALFORMED_JSON")


@PREDICTIONS
def test_colons_and_quotes_in_names_are_no_duplicates(
    attacked: IngressClient, target: Target
) -> None:
    names = ['a:b":"c', "\\", '"', ":", "\\\\\\u0022:"]
    features = dict.fromkeys(names, 1.0)

    assert refused_as(attacked, target, target.put(features)) == "FEATURE_MISMATCH"


@EACH
@pytest.mark.parametrize(
    ("header", "value"),
    [("Content-Encoding", "gzip"), ("Content-Encoding", "br"), ("Content-Type", "text/plain")],
)
def test_a_compressed_body_or_another_media_type_is_rejected(
    attacked: IngressClient, target: Target, header: str, value: str
) -> None:
    bomb = gzip.compress(b" " * (64 * MIB))

    assert refusal(attacked.post(target.path, bomb, headers={header: value})) == (
        415,
        "UNSUPPORTED_MEDIA_TYPE",
    )


# -- I2: large


class Pieces:
    """A body that is sent in pieces without a length."""

    def __init__(self, size: int) -> None:
        self.left, self.sent = size, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.left > 0:
            self.left -= 65_536
            self.sent += 65_536
            yield b" " * 65_536


@EACH
def test_a_body_is_rejected_as_soon_as_it_exceeds_the_limit(
    attacked: IngressClient, target: Target
) -> None:
    announced = attacked.post(target.path, b" " * (LIMIT + 1))
    endless = Pieces(1 << 30)
    false_length = Pieces(1 << 30)

    assert refusal(announced) == (413, "BODY_TOO_LARGE")
    assert refusal(attacked.request("POST", target.path, content=endless)) == (
        413,
        "BODY_TOO_LARGE",
    )
    assert refusal(
        attacked.request(
            "POST", target.path, content=false_length, headers={"Content-Length": "10"}
        )
    ) == (413, "BODY_TOO_LARGE")
    assert max(endless.sent, false_length.sent) <= LIMIT + 2 * 65_536


def full(begin: bytes, piece: bytes, end: bytes, size: int = LIMIT) -> bytes:
    return begin + piece * ((size - len(begin) - len(end)) // len(piece)) + end


FULL = [
    pytest.param(full(b'{"kind": "flow", "features": [', b"0,", b"0]}"), id="numbers in an event"),
    pytest.param(full(b'{"features": [', b"0,", b"0]}"), id="numbers in a flow"),
    pytest.param(full(b'{"features": {', b'"a":0,', b'"b":0}}'), id="names"),
    pytest.param(full(b'{"events": [', b"{},", b"{}]}"), id="empty events"),
    pytest.param(full(b'{"flows": [', b"0,", b"0]}"), id="numbers for flows"),
    pytest.param(full(b'{"flows": [{"features": [', b"[],", b"[]]}]}"), id="lists for numbers"),
    pytest.param(full(b'{"features": "', b"a", b'"}'), id="one word"),
    pytest.param(full(b"", b'"\\', b""), id="unclosed quotes"),
    pytest.param(
        b",,,," * 100_000 + full(b"", b'"\\', b"")[: LIMIT - 400_000],
        id="unclosed quotes after commas",
    ),
    pytest.param(full(b"", b"[", b""), id="brackets"),
    pytest.param(full(b"", b'{"a":', b""), id="objects"),
    pytest.param(full(b'{"model_name": "', b"\\ud800", b'"}'), id="half surrogate pairs"),
]


@EACH
@pytest.mark.parametrize("body", FULL)
def test_a_full_body_costs_less_than_four_times_its_size(target: Target, body: bytes) -> None:
    """P28, measured in allocations by Python; and every input takes linear time."""
    tracemalloc.start()
    began = time.process_time()
    try:
        target.parse(body)
    except EventError:
        pass
    finally:
        cpu_s = time.process_time() - began
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    assert peak < 4 * len(body)
    assert cpu_s < 20  # a quadratic parser would need hours


# -- I3: deep, and long numbers


@EACH
@pytest.mark.parametrize("depth", [17, 500, 5_000, 200_000])
@pytest.mark.parametrize(
    ("opens", "closes"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["lists", "objects"]
)
def test_nesting_of_any_depth_is_rejected(
    attacked: IngressClient, target: Target, depth: int, opens: bytes, closes: bytes
) -> None:
    for nested in (opens * depth, opens * depth + b"1" + closes * depth):
        body = json.dumps(target.put("HERE")).encode().replace(b'"HERE"', nested)
        assert refused_as(attacked, target, nested) in {"MALFORMED_JSON", "MALFORMED_EVENT"}
        assert refused_as(attacked, target, body) in {"MALFORMED_JSON", "MALFORMED_EVENT"}


@EACH
@pytest.mark.parametrize(
    "number",
    [
        "9" * 5_000,
        "-" + "9" * 5_000,
        "0." + "9" * 5_000 + "e99999",
        "1e" + "9" * 5_000,
        "1e-" + "9" * 50,
    ],
)
def test_a_number_of_any_length_is_rejected_or_read(
    attacked: IngressClient, target: Target, number: str
) -> None:
    """The parser of Python raises ValueError at 5,000 digits."""
    body = json.dumps(target.put(["HERE", *BENIGN[1:]])).replace('"HERE"', number).encode()

    answer = attacked.post(target.path, body)

    assert answer.status_code in {200, 400, 422}


# -- I4: invalid numbers

NO_NUMBERS = [
    pytest.param("1e39", "FEATURE_MISMATCH", id="more than float32 holds"),
    pytest.param("-1e39", "FEATURE_MISMATCH", id="less than float32 holds"),
    pytest.param("1e400", "MALFORMED_EVENT", id="more than float64 holds"),
    pytest.param("null", "FEATURE_MISMATCH", id="null"),
    pytest.param("true", "MALFORMED_EVENT", id="a boolean"),
    pytest.param('"1"', "MALFORMED_EVENT", id="a string"),
    pytest.param('"NaN"', "MALFORMED_EVENT", id="NaN as a string"),
    pytest.param("[1]", "MALFORMED_EVENT", id="a list"),
    pytest.param('{"$numberDouble": "1"}', "MALFORMED_EVENT", id="an object"),
]


@EACH
@pytest.mark.parametrize(("number", "code"), NO_NUMBERS)
@pytest.mark.parametrize("place", [0, 39, 77])
def test_an_invalid_number_is_rejected_with_its_field(
    attacked: IngressClient, target: Target, place: int, number: str, code: str
) -> None:
    features: list[Any] = [*BENIGN]
    features[place] = "HERE"
    body = json.dumps(target.put(features)).replace('"HERE"', number).encode()

    answer = attacked.post(target.path, body)

    error = (
        answer.json()["error"]
        if answer.status_code != 200
        else (answer.json().get("results") or answer.json()["predictions"])[0]["error"]
    )
    name = wire.flow.FEATURE_NAMES[place]
    assert error["code"] == code
    assert error["field"] in {f"features.{name}", f"features[{place}]"}


@PREDICTIONS
@pytest.mark.parametrize("number", ["-0", "-0.0", "5e-324", "1e-45", "1E2", "3.4028234e38"])
def test_an_unusual_finite_number_is_accepted(
    attacked: IngressClient, target: Target, number: str
) -> None:
    features: list[Any] = [*BENIGN]
    features[30] = "HERE"
    body = json.dumps(target.put(features)).replace('"HERE"', number).encode()

    answer = attacked.post(target.path, body)

    assert answer.status_code == 200
    assert "error" not in answer.json().get("predictions", [answer.json()])[0]


# -- I5: too few, too many


@PREDICTIONS
@pytest.mark.parametrize("count", [0, 1, 77, 79, 156])
def test_another_number_of_features_than_78_is_rejected(
    attacked: IngressClient, target: Target, count: int
) -> None:
    assert refused_as(attacked, target, target.put((BENIGN * 2)[:count])) == "FEATURE_MISMATCH"


@pytest.mark.parametrize(
    ("count", "status"), [(0, 422), (1, 200), (1000, 200), (1001, 422), (100_000, 422)]
)
def test_a_batch_has_between_one_and_a_thousand_flows(
    attacked: IngressClient, count: int, status: int
) -> None:
    answer = attacked.post(
        "/predict/batch", {"flows": [{"features": BENIGN if count <= 1001 else []}] * count}
    )

    assert answer.status_code == status
    if status == 200:
        assert len(answer.json()["predictions"]) == count
