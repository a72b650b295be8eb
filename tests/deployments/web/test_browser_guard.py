"""Requests of web pages: a page of another site changes nothing and reads nothing."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.config.settings import read_settings
from deployments.web.browser_guard import FOREIGN_ORIGIN, UNKNOWN_HOST, BrowserGuard
from tests.support.asgi_clients import LONG_DEADLINE, OpenIngress
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.scoring_client import error_of

OPEN = read_settings({"auth": {"mode": "off", "hosts": ["SIEM.local"]}})
KEYS = read_settings({"auth": {"origins": ["https://console.example.org"]}})


def refusal(guard: BrowserGuard, method: str = "POST", **headers: str) -> str:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return guard.refusal({"type": "http", "method": method, "headers": raw})


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8000", "localhost:8000", "[::1]:8000", "127.0.0.5", "siem.local:80"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_with_authentication_off_loopback_and_listed_hosts_are_served(
    host: str, method: str
) -> None:
    assert refusal(BrowserGuard.from_settings(OPEN), method, host=host) == ""


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "10.0.0.7", "[::2]:80"],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_with_authentication_off_another_host_is_refused(host: str, method: str) -> None:
    """DNS rebinding: a page whose own name points at loopback could read what is answered."""
    assert refusal(BrowserGuard.from_settings(OPEN), method, host=host) == UNKNOWN_HOST


def test_with_keys_every_host_is_served() -> None:
    """A page does not have the key, and a service behind a gateway has any name."""
    assert refusal(BrowserGuard.from_settings(KEYS), host="axon.example.org") == ""


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "http://localhost:9999", "http://localhost"]
)
@pytest.mark.parametrize("settings", [OPEN, KEYS], ids=["off", "keys"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_a_page_that_is_not_listed_changes_nothing(settings: Any, origin: str, method: str) -> None:
    guard = BrowserGuard.from_settings(settings)

    assert refusal(guard, method, host="localhost:8000", origin=origin) == FOREIGN_ORIGIN


def test_a_listed_page_and_the_pages_of_the_service_may_change_something() -> None:
    guard = BrowserGuard.from_settings(KEYS)

    assert refusal(guard, host="axon.local", origin="https://console.example.org") == ""
    assert refusal(guard, host="localhost:8000", origin="http://localhost:8000") == ""


def test_a_program_has_no_origin() -> None:
    assert refusal(BrowserGuard.from_settings(OPEN), host="localhost:8000") == ""


PATHS = [
    pytest.param("POST", "/v1/layers/behavior/disable", id="a switch"),
    pytest.param("POST", "/v1/score", id="a score"),
    pytest.param("POST", "/no/such/route", id="no route"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("content_type", ["text/plain", "application/json", ""])
def test_a_page_of_another_site_cannot_switch_a_layer_off(
    open_client: OpenIngress, meter: RecordingMeter, method: str, path: str, content_type: str
) -> None:
    """A form, plain text and a body without a type are sent without asking the service first."""
    client = open_client(overrides=LONG_DEADLINE)
    headers = {"Origin": "https://evil.example"}
    if content_type:
        headers["Content-Type"] = content_type

    answer = client.request(method, path, content=b"{}", headers=headers)

    error_of(answer, 403, FOREIGN_ORIGIN)
    assert meter.total("axon_requests_refused_total", code=FOREIGN_ORIGIN) == 1
    assert client.get("/v1/status").json()["controls"]["disabled"] == []


@pytest.mark.parametrize("path", ["/health", "/v1/status", "/metrics", "/docs"])
def test_a_page_with_its_own_name_on_loopback_reads_nothing(
    open_client: OpenIngress, path: str
) -> None:
    answer = open_client(overrides=LONG_DEADLINE).get(path, headers={"Host": "evil.example"})

    error_of(answer, 421, UNKNOWN_HOST)
