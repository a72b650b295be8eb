"""Score a CSV of network flows through a running Axon and print the highest scores.

    .venv/bin/python examples/score_a_csv.py flows.csv

The header names CICFlowMeter features, in any of its dialects. Columns that identify a flow
(addresses, time, label) are not sent. A request carries 1,000 flows, the most that Axon accepts.
A key, where the service requires one, is read from the environment variable AXON_KEY.
`axon score flows.csv` does the same and more; this program shows the requests.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

BATCH = 1000
NOT_FEATURES = {
    "flow id", "src ip", "source ip", "src port", "source port", "dst ip", "destination ip",
    "protocol", "timestamp", "label",
}  # fmt: skip


def main() -> None:
    """Read the arguments, score the file and print a table."""
    arguments = argparse.ArgumentParser(description="Score a CSV of flows with a running Axon.")
    arguments.add_argument("file", type=Path)
    arguments.add_argument("--url", default="http://127.0.0.1:8000")
    arguments.add_argument("--top", type=int, default=20, help="rows to print")
    given = arguments.parse_args()

    key = os.environ.get("AXON_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=given.url, headers=headers, timeout=30.0) as client:
        results = score_file(given.file, client)
        highest = heapq.nlargest(given.top, results, key=lambda one: one.get("score", -1.0))

    print(f"{'id':<12} {'score':>7}  {'coverage':>8}  verdict")
    for one in highest:
        if "error" in one:
            print(f"{one['id']:<12} {'-':>7}  {'-':>8}  rejected: {one['error']['message']}")
        else:
            print(f"{one['id']:<12} {one['score']:7.4f}  {one['coverage']:8.2f}  {one['verdict']}")


def score_file(file: Path, client: httpx.Client) -> Iterator[dict[str, Any]]:
    """Yield the result of every row of `file`, in order: a verdict, or an error for that row alone.

    Raises:
        httpx.HTTPStatusError: the service rejected a batch.
    """
    with file.open(newline="") as lines:
        events = enumerate(csv.DictReader(lines), start=2)  # line 1 is the header
        while batch := [to_event(line, row) for line, row in itertools.islice(events, BATCH)]:
            answer = client.post("/v1/score/batch", json={"events": batch}).raise_for_status()
            yield from answer.json()["results"]


def to_event(line: int, row: dict[str, str]) -> dict[str, Any]:
    """Make a flow event of one CSV row, identified by its line."""
    features = {
        name.strip(): to_number(value)
        for name, value in row.items()
        if name.strip().lower() not in NOT_FEATURES
    }
    return {"kind": "flow", "id": f"line {line}", "features": features}


def to_number(text: str) -> float | None:
    """Read a number. JSON has no Infinity or NaN, which CICFlowMeter writes as rates: None."""
    value = float(text)
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    main()
