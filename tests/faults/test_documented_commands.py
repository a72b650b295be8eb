"""The requests of README, quick start and operation guide, as shown, against a real service."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ensemble.features.flow import FEATURE_NAMES
from tests.load.flows import made_up_flows
from tests.support.pages import README, ROOT, commands, shell_words
from tests.support.running_service import ENDED_WITHIN_S, Service, kill
from tests.support.timing import wait_until

pytestmark = pytest.mark.cluster

SCORE_AGAIN = "curl -s http://127.0.0.1:8000/v1/score --json @examples/ddos_flow.json"
SHOWN = [README, ROOT / "docs" / "quickstart.md", ROOT / "docs" / "operate.md"]


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.stem)
def test_every_request_of_a_page_is_answered(service: Service, page: Path) -> None:
    requests = [one for one in commands(page) if shell_words(one)[0] == "curl"]

    assert requests
    for request in requests:
        answer = run(service, request)
        assert answer.startswith(("{", "#")), request
        assert not answer.startswith('{"error"'), answer


def test_a_killed_layer_lowers_the_coverage_and_comes_back(service: Service) -> None:
    """As the README shows: the coverage falls, the verdict states it, and the layer comes back."""
    assert SCORE_AGAIN in README.read_text()
    assert score_again(service)["coverage"] == 1.0

    kill(service.only_replica("behavior"))

    degraded = score_again(service)
    assert degraded["coverage"] == pytest.approx(0.56, abs=0.005)
    assert (degraded["verdict"], degraded["status"]) == ("malicious", "PARTIALLY_OPERATIONAL")
    assert degraded["low"] < degraded["score"] < degraded["high"]
    assert wait_until(lambda: score_again(service)["coverage"] == 1.0, ENDED_WITHIN_S)


def test_a_disabled_layer_lowers_the_coverage_until_it_is_enabled(service: Service) -> None:
    url = f"http://127.0.0.1:{service.port}"
    try:
        service.axon("layers", "disable", "behavior", "--url", url)
        degraded = score_again(service)
    finally:
        service.axon("layers", "enable", "behavior", "--url", url)

    assert degraded["coverage"] == pytest.approx(0.56, abs=0.005)
    assert wait_until(lambda: score_again(service)["coverage"] == 1.0, ENDED_WITHIN_S)


def test_the_example_program_scores_a_csv(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "flows.csv"
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerows([FEATURE_NAMES, *made_up_flows(1001, seed=5).tolist()])
    script = [sys.executable, "examples/score_a_csv.py", str(file), "--top", "3"]

    printed = subprocess.run(
        [*script, "--url", f"http://127.0.0.1:{service.port}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip

    assert len(printed) == 4
    scores = [float(line.split()[2]) for line in printed[1:]]
    assert scores == sorted(scores, reverse=True)


def score_again(service: Service) -> dict[str, Any]:
    return dict(json.loads(run(service, SCORE_AGAIN)))


def run(service: Service, command: str) -> str:
    """Run a shown command, with the port of this service, and return its output."""
    own = command.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")
    return subprocess.run(
        ["bash", "-c", own], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
