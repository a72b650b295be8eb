"""The contract of the management application is complete and true; each route needs its scope."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deployments.config.settings import read_settings
from deployments.web.api_keys import Scope
from deployments.web.docs_page import DOCS_FILES
from deployments.web.errors import status_of
from tests.support.management import ManagementClient
from tests.support.recorded_telemetry import RecordingMeter

SCOPES = {
    ("get", "/models"): Scope.READ,
    ("get", "/models/{name}/info"): Scope.READ,
    ("get", "/models/{name}/versions"): Scope.READ,
    ("get", "/models/{name}/versions/{version}/export"): Scope.MANAGE,
    ("post", "/models/{name}/promote"): Scope.MANAGE,
    ("put", "/models/{name}/challenger"): Scope.MANAGE,
    ("delete", "/models/{name}/challenger"): Scope.MANAGE,
    ("delete", "/models/{name}"): Scope.MANAGE,
    ("post", "/models/{name}/load"): Scope.MANAGE,
    ("post", "/models/{name}/detect"): Scope.SCORE,
    ("post", "/models/train"): Scope.TRAIN,
    ("get", "/models/jobs"): Scope.READ,
    ("get", "/models/jobs/{id}"): Scope.READ,
    ("delete", "/models/jobs/{id}"): Scope.TRAIN,
    ("post", "/models/import"): Scope.MANAGE,
    ("post", "/models/retention"): Scope.MANAGE,
    ("get", "/models/audit"): Scope.READ,
    ("get", "/models/releases"): Scope.READ,
    ("post", "/models/releases/{serial}/promote"): Scope.MANAGE,
    ("post", "/models/rollback"): Scope.MANAGE,
    ("get", "/models/challenger"): Scope.READ,
    ("put", "/models/challenger"): Scope.MANAGE,
    ("delete", "/models/challenger"): Scope.MANAGE,
    ("get", "/models/openapi.json"): None,
    ("get", "/models/docs"): None,
    **{("get", f"/models/docs/{name}"): None for name in DOCS_FILES},
}


@pytest.fixture
def managed(own_state: Path, meter: RecordingMeter) -> Iterator[ManagementClient]:
    del own_state
    made = ManagementClient(read_settings(), meter)
    made.key_of("acme")
    made.open()
    yield made
    made.close()


@pytest.fixture
def contract(managed: ManagementClient) -> dict[str, Any]:
    found: dict[str, Any] = managed.request("GET", "/models/openapi.json").json()
    return found


def operations(contract: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    return (
        (method, path, one)
        for path, methods in contract["paths"].items()
        for method, one in methods.items()
    )


def test_the_contract_names_every_route(contract: dict[str, Any]) -> None:
    assert {(method, path) for method, path, _ in operations(contract)} == set(SCOPES)


def test_every_code_of_a_status_is_listed_with_those_of_keys(contract: dict[str, Any]) -> None:
    """429 may mean a tenant's rate or one of its quotas; the contract names both."""
    answer = contract["paths"]["/models/train"]["post"]["responses"]["429"]
    schema = answer["content"]["application/json"]["schema"]

    codes = schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"]
    assert codes == ["JOB_QUOTA", "RATE_LIMITED"]


def test_the_contract_says_of_every_route_which_scope_it_needs(contract: dict[str, Any]) -> None:
    for method, path, one in operations(contract):
        scope = SCOPES[method, path]
        assert one["security"] == ([] if scope is None else [{"key": []}]), path
        assert scope is None or f"the scope `{scope}`" in one["description"], path
        assert scope is None or {"401", "403", "429"} <= one["responses"].keys(), path


def test_every_schema_is_one_is_used_and_is_closed(contract: dict[str, Any]) -> None:
    schemas = contract["components"]["schemas"]
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(contract)))

    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert schemas.keys() == used
    assert [
        name
        for name, schema in schemas.items()
        if "properties" in schema and schema.get("additionalProperties") is not False
    ] == []


def test_every_error_code_stands_where_its_status_is(contract: dict[str, Any]) -> None:
    for _, path, one in operations(contract):
        for status, answer in one["responses"].items():
            schema = answer["content"].get("application/json", {}).get("schema", {})
            if {"$ref": "#/components/schemas/ErrorAnswer"} in schema.get("allOf", ()):
                codes = schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"]
                assert {str(status_of(code)) for code in codes} == {status}, path


def test_every_operation_has_a_name_of_its_own_a_summary_and_a_group(
    contract: dict[str, Any],
) -> None:
    found = [one for _, _, one in operations(contract)]

    assert len({one["operationId"] for one in found}) == len(found)
    assert all(one["summary"] and one["tags"] for one in found)


def test_every_example_of_a_body_is_allowed_by_its_schema(contract: dict[str, Any]) -> None:
    shown = 0
    for _, _, one in operations(contract):
        content = one.get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in content.get("examples", {}).values():
            shown += 1
            schema = content["schema"] | {"components": contract["components"]}
            jsonschema.validate(example["value"], schema, cls=jsonschema.Draft202012Validator)
    assert shown == sum(
        "application/json" in one.get("requestBody", {}).get("content", {})
        for _, _, one in operations(contract)
    )


def test_the_page_to_read_it_with_is_public_and_needs_nothing_from_elsewhere(
    managed: ManagementClient,
) -> None:
    page = managed.request("GET", "/models/docs")

    assert page.status_code == 200
    for link in re.findall(r'(?:href|src)="([^"]+)"', page.text):
        assert managed.request("GET", f"/models/{link}").status_code == 200


def test_a_path_that_is_public_is_so_for_its_own_method_alone(managed: ManagementClient) -> None:
    """`DELETE /models/openapi.json` would be a route of a model of that name."""
    assert managed.request("GET", "/models/openapi.json").status_code == 200
    assert (
        managed.request("DELETE", "/models/openapi.json", params={"version": "1"}).status_code
        == 401
    )


OTHERS = [
    pytest.param(
        "PATCH", "/models/challenger", "DELETE, GET, HEAD, PUT", id="three routes of one path"
    ),
    pytest.param("POST", f"/models/jobs/{'0' * 32}", "DELETE, GET, HEAD", id="two"),
    pytest.param("DELETE", "/models/train", "POST", id="a word, and no model"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), OTHERS)
def test_another_method_is_405_and_every_one_that_is_taken_is_named(
    managed: ManagementClient, method: str, path: str, allowed: str
) -> None:
    answer = managed.request(method, path, headers=managed.key_of("acme"))

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
