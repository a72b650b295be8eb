"""Requests made from both contracts, true and false: no answer is a mistake of ours, and each is one that the contract has.

`make verify` asks more than 5,000 of them; the short form some hundreds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from deployments.manage_openapi import PREFIX
from deployments.settings import read_settings
from tests.deployments.conftest import PATIENT, OpenDoor, RecordingMeter
from tests.deployments.management import Managed

REQUESTS_OF_A_ROUTE = 150 if os.environ.get("AXON_VERIFY") else 6
WITHOUT_LIMITS = PATIENT | {"auth": {"mode": "off", "requests_per_s": 1e6, "burst": 1e6}}
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
UNAVAILABLE = {503}  # an answer of the contract, and no mistake: nothing is loaded, no key to sign with


@pytest.fixture
def asked() -> Iterator[Counter[int]]:
    counts: Counter[int] = Counter()
    yield counts
    print(f"{sum(counts.values())} requests, by status: {dict(sorted(counts.items()))}")


def fuzz(ask: Callable[..., httpx.Response], contract: str, counts: Counter[int]) -> None:
    """Ask every route; `ask` takes a method and a path, in the one loop of the application's life."""
    schema = schemathesis.openapi.from_dict(ask("GET", contract).json())
    for found in schema.get_all_operations():

        def one(case: Any) -> None:
            request = case.as_transport_kwargs(base_url="http://axon")
            url = httpx.URL(request.pop("url"), params=request.pop("params", None) or None)
            if "data" in request:
                request["content"] = request.pop("data")
            answer = ask(
                request.pop("method"),
                str(url),
                headers=dict(request.pop("headers")),
                **{k: request[k] for k in ("json", "content") if k in request},
            )
            counts[answer.status_code] += 1
            checks = CHECKS[1:] if answer.status_code in UNAVAILABLE else CHECKS
            case.validate_response(Response.from_httpx(answer, verify=True), checks=checks)

        often = settings(
            max_examples=REQUESTS_OF_A_ROUTE, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        for mode in GenerationMode:
            with suppress(Unsatisfiable):  # nothing is false of a route that takes nothing
                often(given(found.ok().as_strategy(generation_mode=mode))(one))()


def test_the_scoring_application_keeps_its_contract(open_door: OpenDoor, asked: Counter[int]) -> None:
    door = open_door(overrides=WITHOUT_LIMITS)

    fuzz(door.ask, "/openapi.json", asked)

    assert asked[200] > 0 < asked[422]


def test_the_management_application_keeps_its_contract(own_state: Path, meter: RecordingMeter, asked: Counter[int]) -> None:
    del own_state
    managed = Managed(read_settings(WITHOUT_LIMITS), meter)
    managed.open()

    fuzz(managed, f"{PREFIX}/openapi.json", asked)

    managed.close()
    assert asked[200] > 0 < asked[422]
