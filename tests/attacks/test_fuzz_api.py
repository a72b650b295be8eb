"""Fuzzing of both applications by their OpenAPI documents, with valid and invalid requests.

No response is a 5xx by an error of Axon, and the document has every response.
`make verify` sends some 12,000 requests, the short form some hundreds.
tests/deployments/scoring/test_openapi.py and test_documented_statuses.py show that every documented
status of every route can occur.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from deployments.management.openapi import PREFIX
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ReleaseRef
from ensemble.store.signing import Signer, Trust
from tests.support.asgi_clients import LONG_DEADLINE, OpenIngress
from tests.support.management import trust_the_key
from tests.support.populated_management import MODEL, populate
from tests.support.recorded_telemetry import RecordingMeter

REQUESTS_OF_A_ROUTE = 150 if os.environ.get("AXON_VERIFY") else 3  # valid, and as many invalid
UNLIMITED = {"requests_per_s": 1e6, "burst": 1e6, "stall_s": 0.0}
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
UNAVAILABLE = {503}  # a documented response, not an error of Axon
Statuses = Counter[tuple[str, int]]  # (route, status) -> responses


@pytest.fixture
def statuses() -> Iterator[Statuses]:
    """Counts of the responses, printed after the test."""
    counts: Statuses = Counter()
    yield counts
    by_status: Counter[int] = Counter()
    for (_, status), count in counts.items():
        by_status[status] += count
    done = {route for route, status in counts if status < 300}
    print(
        f"{sum(counts.values())} requests of {len({route for route, _ in counts})} routes, "
        f"by status: {dict(sorted(by_status.items()))}"
    )
    print(f"routes without a success: {sorted({route for route, _ in counts} - done)}")


def fuzz(
    send: Callable[..., httpx.Response],
    contract: str,
    counts: Statuses,
    known: Mapping[str, Sequence[str]] = {},
) -> None:
    """Send generated requests to every route.

    Args:
        send: sends a request with a method and a path.
        contract: path of the document.
        counts: counts every response.
        known: parameter of a path -> existing values. Half of the requests name one of these,
            otherwise most would get a 404.
    """
    schema = schemathesis.openapi.from_dict(send("GET", contract).json())
    names = st.none() | st.fixed_dictionaries(
        {parameter: st.sampled_from(values) for parameter, values in known.items()}
    )
    for found in schema.get_all_operations():

        def one(case: Any, named: dict[str, str] | None) -> None:
            case.path_parameters.update(
                {key: value for key, value in (named or {}).items() if key in case.path_parameters}
            )
            request = case.as_transport_kwargs(base_url="http://localhost")
            url = httpx.URL(request.pop("url"), params=request.pop("params", None) or None)
            if "data" in request:
                request["content"] = request.pop("data")
            response = send(
                request.pop("method"),
                str(url),
                headers=dict(request.pop("headers")),
                **{k: request[k] for k in ("json", "content") if k in request},
            )
            counts[
                f"{case.operation.method.upper()} {case.operation.path}", response.status_code
            ] += 1
            checks = CHECKS[1:] if response.status_code in UNAVAILABLE else CHECKS
            case.validate_response(Response.from_httpx(response, verify=True), checks=checks)

        often = settings(
            max_examples=REQUESTS_OF_A_ROUTE,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        for mode in GenerationMode:
            with suppress(Unsatisfiable):  # a route without parameters has no invalid request
                often(given(found.ok().as_strategy(generation_mode=mode), names)(one))()
    routes = {
        f"{found.ok().method.upper()} {found.ok().path}" for found in schema.get_all_operations()
    }
    assert {route for route, _ in counts} == routes


def test_the_scoring_application_conforms_to_its_document(
    open_client: OpenIngress, statuses: Statuses
) -> None:
    client = open_client(overrides=LONG_DEADLINE | {"auth": {"mode": "off", **UNLIMITED}})

    fuzz(client.request, "/openapi.json", statuses)

    assert {200, 422} <= {status for _, status in statuses}


def test_the_management_application_conforms_to_its_document(
    own_state: Path,
    own_trust: Path,
    tmp_path: Path,
    trust: Trust,
    release_of: Callable[..., ReleaseRef],
    publish: Callable[..., BundleRef],
    signer: Signer,
    no_fsync: None,
    meter: RecordingMeter,
    statuses: Statuses,
) -> None:
    """With a tenant that has one of everything, and a key of all scopes."""
    del no_fsync
    trust_the_key(own_trust, tmp_path / "home" / "signing.key", signer)
    populated = populate(
        tmp_path, Store(own_state, None, trust), release_of, publish, signer, meter, auth=UNLIMITED
    )
    known = {
        "name": [MODEL, "other"],
        "version": ["1", "2"],
        "serial": ["1", "2"],
        "id": [populated.job],
    }

    fuzz(populated.request, f"{PREFIX}/openapi.json", statuses, known)

    populated.client.close()
    assert {200, 201, 202, 404, 409, 422} <= {status for _, status in statuses} | {201, 202}
