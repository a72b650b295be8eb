"""The example program: its batches are valid, and its results are in order."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from deployments.scoring import wire
from ensemble.features.flow import FEATURE_NAMES
from tests.load.flows import made_up_flows
from tests.support.pages import ROOT


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ex", ROOT / "examples" / "score_a_csv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_csv(file: Path, rows: int) -> None:
    """Write a CSV as CICFlowMeter does: with more columns, blanks, and rates like Infinity."""
    rates = {"Flow Bytes/s": "Infinity", "Flow Packets/s": "NaN"}
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["Flow ID", " Source IP", *(f" {name}" for name in FEATURE_NAMES), "Label"])
        for flow in made_up_flows(rows, seed=5).tolist():
            named = dict(zip(FEATURE_NAMES, flow, strict=True)) | rates
            writer.writerow(["id", "10.0.0.7", *named.values(), "BENIGN"])


def test_the_example_sends_batches_of_a_thousand_valid_flows(
    example: ModuleType, tmp_path: Path
) -> None:
    write_csv(tmp_path / "flows.csv", rows=1001)
    sizes = []

    def answer(request: httpx.Request) -> httpx.Response:
        events = wire.parse_batch(request.content, limit=1000)
        _, rows, refused = wire.admit(wire.kind_of(events[0]), events)
        assert not refused
        sizes.append(len(rows))
        return httpx.Response(200, json={"results": [{"id": one.id} for one in events]})

    with httpx.Client(base_url="http://axon", transport=httpx.MockTransport(answer)) as client:
        results = list(example.score_file(tmp_path / "flows.csv", client))

    assert sizes == [1000, 1]
    assert [one["id"] for one in results] == [f"line {line}" for line in range(2, 1003)]


def test_the_example_prints_the_highest_scores_and_the_refused_rows(
    example: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_csv(tmp_path / "flows.csv", rows=3)
    results = [
        {"id": "line 2", "score": 0.25, "coverage": 1.0, "verdict": "benign"},
        {"id": "line 3", "error": {"code": "FEATURE_MISMATCH", "message": "not finite"}},
        {"id": "line 4", "score": 0.75, "coverage": 0.56, "verdict": "malicious"},
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["Authorization"] == "Bearer axon_key"
        assert len(json.loads(request.content)["events"]) == 3
        return httpx.Response(200, json={"results": results})

    made = httpx.Client
    monkeypatch.setattr(
        httpx, "Client", lambda **more: made(transport=httpx.MockTransport(answer), **more)
    )
    monkeypatch.setenv("AXON_KEY", "axon_key")
    monkeypatch.setattr("sys.argv", ["score_a_csv.py", str(tmp_path / "flows.csv")])

    example.main()

    lines = capsys.readouterr().out.splitlines()
    assert [line[:6] for line in lines[1:]] == ["line 4", "line 2", "line 3"]
    assert "rejected: not finite" in lines[3]
