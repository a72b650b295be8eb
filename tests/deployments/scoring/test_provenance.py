"""The provenance in every verdict: release, input and time.

It is computed, never copied from what the caller wrote (N-09).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deployments.scoring.examples import VERDICT
from ensemble.features.flow import FEATURE_NAMES, OTHER_DIALECTS
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.store.layout import Store
from ensemble.store.names import Tenant
from ensemble.store.releases.pointer import read_pointer
from tests.support.asgi_clients import LONG_DEADLINE, Event, IngressClient, OpenIngress
from tests.support.pages import ROOT

FORMS = {
    "release": r"[a-z0-9][a-z0-9._-]{0,62}/[1-9][0-9]{0,14}",
    "release_sha256": r"[0-9a-f]{64}",
    "input_sha256": r"[0-9a-f]{64}",
    "scored_at": r"20\d\d-[01]\d-[0-3]\dT[0-2]\d:[0-5]\d:[0-5]\d\.\d{3}Z",
}
HOSTILE = [
    "acme/7",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "0" * 64,
    "\x1b[2J\x00\r\nSet-Cookie: x",
    "{{7*7}} ${jndi:ldap://x}",
    "\u202e\ufeff\U0001f4a3",
    "x" * 256,
]


def batch(client: IngressClient, events: list[Event]) -> list[dict[str, Any]]:
    answer = client.post("/v1/score/batch", {"events": events})
    assert answer.status_code == 200
    return answer.json()["results"]  # type: ignore[no-any-return]


def test_the_release_is_the_one_that_the_pointer_names_by_its_digest(
    client: IngressClient, flow_events: list[Event], shipped: Store
) -> None:
    """The release's file has the digests of all models, so this digest identifies them."""
    pointer = read_pointer(shipped, Tenant("default"))

    answer = client.post("/v1/score", flow_events[0]).json()

    assert (answer["release"], answer["release_sha256"]) == (
        f"default/{pointer.release}",
        pointer.release_sha256,
    )


def test_the_documented_example_is_a_response_of_the_shipped_models(client: IngressClient) -> None:
    """The scores of the host posture age with the date, so they are not compared."""

    def lasting(verdict: Mapping[str, Any]) -> dict[str, Any]:
        keys = ("id", "verdict", "severity", "release", "release_sha256", "input_sha256")
        layers = [(layer["layer"], layer["version"]) for layer in verdict["layers"]]
        return {key: verdict[key] for key in keys} | {"layers": layers}

    event = json.loads((ROOT / "examples" / "ddos_flow.json").read_text())

    assert lasting(client.post("/v1/score", event).json()) == lasting(VERDICT)


def test_the_same_ensemble_in_one_process_has_the_same_provenance(
    ensemble: LocalEnsemble, client: IngressClient, flow_events: list[Event]
) -> None:
    answer = client.post("/v1/score", flow_events[0]).json()

    assert (ensemble.release.name, ensemble.release.sha256) == (
        answer["release"],
        answer["release_sha256"],
    )


def test_without_a_release_a_verdict_names_none(
    open_client: OpenIngress, flow_events: list[Event], tmp_path: Path
) -> None:
    client = open_client(
        down=set(LAYERS), overrides={**LONG_DEADLINE, "store": {"shipped": str(tmp_path / "none")}}
    )

    answer = client.post("/v1/score", flow_events[0]).json()

    assert (answer["release"], answer["release_sha256"]) == ("", "")
    assert re.fullmatch(FORMS["input_sha256"], answer["input_sha256"])
    assert answer["verdict"] == "indeterminate"


def test_a_batch_is_scored_at_one_time_which_is_now(
    client: IngressClient, flow_events: list[Event], process_events: list[Event]
) -> None:
    """One time for each kind: they leave in two calls."""
    before = datetime.now(UTC)

    answers = batch(client, [*flow_events[:5], *process_events])

    times = [datetime.fromisoformat(answer["scored_at"]) for answer in answers]
    assert len(set(times[:5])) == len(set(times[5:])) == 1
    assert all(before - timedelta(milliseconds=1) <= at <= datetime.now(UTC) for at in times)


def test_a_flow_has_one_digest_in_every_dialect_and_each_flow_its_own(
    client: IngressClient, flow_events: list[Event]
) -> None:
    event = flow_events[0]
    dialects = [
        [([name, *OTHER_DIALECTS.get(name, ())] * 3)[one] for name in FEATURE_NAMES]
        for one in range(3)
    ]
    named = [
        {
            "features": dict(zip(names, event["features"], strict=True)),
            "kind": "flow",
            "id": "other",
        }
        for names in dialects
    ]

    digests = [
        answer["input_sha256"] for answer in batch(client, [event, *named, *flow_events[1:5]])
    ]

    assert len(set(digests[:4])) == 1
    assert len(set(digests[3:])) == 5


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_of_the_caller_is_in_the_provenance(
    client: IngressClient, flow_events: list[Event], process_events: list[Event], text: str
) -> None:
    """The provenance goes into logs, shells and tickets.

    Whatever the caller writes, it is digests, the name of a release and a time.
    """
    process = {
        **process_events[0],
        "id": text,
        "host": text,
        "name": text,
        "user": text,
        "parent": text,
        "command_line": text,
    }

    for answer in batch(
        client, [{**flow_events[0], "id": text, "host": text, "time": text}, process]
    ):
        assert answer["id"] == text  # that one is the caller's own
        for field, form in FORMS.items():
            assert re.fullmatch(form, answer[field], re.ASCII), field
            assert text not in answer[field]


def test_the_document_describes_each_field(client: IngressClient) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Verdict"]

    assert FORMS.keys() <= set(schema["required"])
    assert all(schema["properties"][field]["description"] for field in FORMS)
