"""`axon serve` as a process: requests over HTTP, its open ports and its private files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from deployments.cli.local_store import own_store
from deployments.config.settings import ROOT
from deployments.scoring import wire
from ensemble.events import Kind
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.verdicts import by_row
from tests.support.asgi_clients import Event
from tests.support.running_service import Service
from tests.support.slots import resolver_of
from tests.support.timing import wait_until

pytestmark = pytest.mark.cluster

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
TWENTY_MB = 20 * 1000 * 1000


@pytest.fixture
def ensemble(service: Service) -> LocalEnsemble:
    """The serving models of the service, loaded in this process."""
    settings = service.settings()
    return LocalEnsemble(
        resolver_of(own_store(settings)),
        min_coverage=settings.fusion.min_coverage,
        posture_bound=settings.fusion.posture_bound,
        stale_after_days=settings.posture.stale_after_days,
        expired_after_days=settings.posture.expired_after_days,
    )


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{service.port}"
    with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as made:
        yield made


def error_code(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/json", answer.text[:200]
    for inside in ("Traceback", str(ROOT), ".py"):
        assert inside not in answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["request_id"]
    return str(error["code"])


def test_a_flow_and_a_process_are_scored_by_live_layers(
    client: httpx.Client, flow_events: list[Event], process_events: list[Event]
) -> None:
    for event in (flow_events[0], process_events[0]):
        answer = client.post("/v1/score", json=event)

        assert answer.status_code == 200, answer.text
        assert answer.json()["id"] == event["id"]
        assert answer.json()["coverage"] == 1.0
        assert answer.json()["status"] == "FULLY_OPERATIONAL"


def test_a_batch_of_both_kinds_keeps_its_order(
    client: httpx.Client, flow_events: list[Event], process_events: list[Event]
) -> None:
    events = [flow_events[0], process_events[0], {"kind": "smoke", "id": "bad"}, flow_events[1]]

    body = client.post("/v1/score/batch", json={"events": events}).json()

    assert [result["id"] for result in body["results"]] == ["f0", "p0", "bad", "f1"]
    assert body["results"][2]["error"]["code"] == "MALFORMED_EVENT"


BAD = [
    pytest.param("POST", "/v1/score", b"{", 400, "MALFORMED_JSON", id="malformed"),
    pytest.param(
        "POST",
        "/v1/score",
        b'{"kind":"flow","features":[1,2]}',
        422,
        "FEATURE_MISMATCH",
        id="2 features",
    ),
    pytest.param(
        "POST", "/v1/score", b'{"kind":"smoke"}', 422, "MALFORMED_EVENT", id="unknown kind"
    ),
    pytest.param(
        "POST",
        "/v1/score/batch",
        b'{"events":[' + b"1," * 1000 + b"1]}",
        422,
        "TOO_MANY_EVENTS",
        id="1,001 events",
    ),
    pytest.param(
        "POST",
        "/v1/score/batch",
        b'{"events":[' + b'{"a":' * 9999 + b"1" + b"}" * 9999 + b"]}",
        400,
        "MALFORMED_JSON",
        id="deep",
    ),
    pytest.param("GET", "/etc/passwd", b"", 404, "NOT_FOUND", id="no such route"),
    pytest.param("DELETE", "/v1/score", b"", 405, "METHOD_NOT_ALLOWED", id="wrong method"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code"), BAD)
def test_bad_input_is_rejected_by_the_real_service(
    client: httpx.Client, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    """P27: with a status and a code."""
    answer = client.request(method, path, content=body)

    assert answer.status_code == status
    assert error_code(answer) == code


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with its length", "chunked"])
def test_a_body_of_twenty_megabytes_is_too_large(client: httpx.Client, is_chunked: bool) -> None:  # noqa: FBT001
    """P28: a server may respond and close before it has received the body.

    The client then sees the response or a closed connection.
    """
    body = (b" " * 1_000_000 for _ in range(20)) if is_chunked else b" " * TWENTY_MB

    try:
        answer = client.post("/v1/score", content=body)
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass
    else:
        assert answer.status_code == 413
        assert error_code(answer) == "BODY_TOO_LARGE"

    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("header", ["x-request-timeout-seconds", "x-request-disconnect-disabled"])
@pytest.mark.parametrize("value", ["0", "1e9", "-1", "nan", "?1", "x"])
def test_no_header_of_a_caller_changes_the_deadline(
    client: httpx.Client, process_events: list[Event], header: str, value: str
) -> None:
    """RELIABILITY fact 8, fault I12."""
    answer = client.post("/v1/score", json=process_events[0], headers={header: value})

    assert answer.status_code == 200
    assert answer.json()["coverage"] == 1.0


def test_64_callers_at_once_get_the_scores_of_the_ensemble_in_one_process(
    client: httpx.Client,
    ensemble: LocalEnsemble,
    flow_events: list[Event],
    process_events: list[Event],
) -> None:
    """P15: any batch, any replica, the same score within 1e-6."""
    events = [*flow_events[:58], *process_events, *process_events][:64]
    parsed = {kind: [event for event in events if event["kind"] == kind] for kind in Kind}
    expected: dict[str, float] = {}
    for kind, some in parsed.items():
        batch = wire.admit(kind, [wire.parse_event(json.dumps(event).encode()) for event in some])[
            0
        ]
        scores = by_row(ensemble.score_groups(batch), lambda group: group.score)
        expected |= dict(zip(batch.ids, scores.tolist(), strict=True))
    client.post("/v1/score/batch", json={"events": events})  # warms up every layer

    with ThreadPoolExecutor(64) as callers:
        answers = list(callers.map(lambda event: client.post("/v1/score", json=event), events))

    assert {answer.status_code for answer in answers} == {200}
    complete = [answer.json() for answer in answers if not answer.json()["degraded"]]
    # on a busy machine a layer may miss the deadline of 250 ms; the verdict is then degraded
    assert len(complete) >= len(answers) // 2
    for answer in complete:
        assert answer["score"] == pytest.approx(expected[answer["id"]], abs=1e-6)


def listening(service: Service) -> dict[str, set[tuple[str, int]]]:
    """Map `haproxy` and `ray` to the addresses on which their processes listen."""
    found: dict[str, set[tuple[str, int]]] = {"haproxy": set(), "ray": set()}
    for name, addresses in listening_by_process(service).items():
        found["haproxy" if "haproxy" in name else "ray"] |= addresses
    return found


def listening_by_process(service: Service) -> dict[str, set[tuple[str, int]]]:
    """Map the name and id of each process to the addresses on which it listens."""
    found = {}
    for process in service.processes():
        with suppress(psutil.Error):
            addresses = {
                (c.laddr.ip, c.laddr.port)
                for c in process.net_connections("inet")
                if c.status == psutil.CONN_LISTEN
            }
            found[f"{process.name()} {process.pid}"] = addresses
    return found


def test_only_the_calls_between_replicas_listen_on_other_addresses_than_loopback(
    service: Service,
) -> None:
    """A1: these ports of Serve have no setting; docs/security.md names them.

    Not the service, HAProxy's statistics, metrics and admin socket, or any server of Ray itself.
    """
    assert wait_until(
        lambda: service.port in {one for _, one in listening(service)["haproxy"]}, 10.0
    ), "no HAProxy, or its reload takes too long"
    found = listening(service)

    assert {ip for ip, _ in found["haproxy"]} <= LOOPBACK
    elsewhere = {
        name: {one for ip, one in addresses if ip not in LOOPBACK}
        for name, addresses in listening_by_process(service).items()
    }
    assert service.port not in set().union(*elsewhere.values())
    for name, ports in elsewhere.items():
        assert len(ports) <= name.startswith("ray::ServeReplica"), (name, ports)
    for _, open_port in sorted((ip, one) for ip, one in found["ray"] if ip not in LOOPBACK):
        assert not is_scoring_port(open_port), open_port


def is_scoring_port(port: int) -> bool:
    """Whether a port responds as the scoring application does.

    Ray's exporter has the names of Axon's metrics, but scores nothing.
    """
    with suppress(httpx.HTTPError, ValueError):
        return (
            "ml_status"
            in httpx.get(f"http://127.0.0.1:{port}/health", timeout=1.0, trust_env=False).json()
        )
    return False


def test_the_settings_of_haproxy_are_readable_by_their_owner_only(service: Service) -> None:
    for process in service.processes():
        with suppress(psutil.Error):
            command = process.cmdline()
            if "haproxy" in process.name() and "-f" in command:
                config = Path(command[command.index("-f") + 1])
                private = next(
                    parent for parent in config.parents if parent.name.startswith("axon-run-")
                )
                assert private.stat().st_mode & 0o077 == 0
                return
    raise AssertionError("no HAProxy")


def test_the_status_names_every_layer_and_the_release(client: httpx.Client) -> None:
    body = client.get("/v1/status").json()

    assert [layer["layer"] for layer in body["layers"]] == list(LAYERS)
    assert body["release"].startswith("default/")
