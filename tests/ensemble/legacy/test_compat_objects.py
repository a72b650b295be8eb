"""The objects of the older engine: real ones from loaded models, dummies for absent layers."""

from __future__ import annotations

import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler
from torch import nn

from ensemble.events import Kind
from ensemble.legacy import DUMMY_PROBABILITY, MALICIOUS_FROM, legacy_objects
from ensemble.legacy.import_models import OldLayer, behavior_model, flow_model, process_model
from ensemble.runtime.model_state import LoadedModel, LoadedRelease
from tests.support.legacy_models import AGREE, LAUNCHES, logits

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "legacy_objects.py"


def release(models: Mapping[Kind, Any]) -> LoadedRelease:
    return LoadedRelease(
        "acme/1",
        {kind: LoadedModel(model, "1") for kind, model in models.items()},
    )


def events_of(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.getMessage().split()[0], record.__dict__["reason"])
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]


def test_absent_layers_have_dummies_with_the_older_numbers() -> None:
    """S0-07 to S0-11, C-04, C-05."""
    objects = legacy_objects([], device="cpu")
    rows = np.ones((5, 78), np.float32)

    labels = objects.anomaly_model.predict(rows)
    scaled = objects.scaler.transform(rows)
    chance = objects.behavior_model.eval().to("cpu")(torch.from_numpy(scaled))

    assert labels.tolist() == [0.0] * 5
    assert scaled is rows
    assert chance.shape == (5, 1)
    assert chance.dtype == torch.float32
    assert (chance == DUMMY_PROBABILITY).all()
    assert DUMMY_PROBABILITY < MALICIOUS_FROM
    assert objects.process_frequencies == {}


def test_a_dummy_logs_its_first_use_and_no_later_one(caplog: pytest.LogCaptureFixture) -> None:
    """S0-24, S0-25, S0-26, C-13."""
    objects = legacy_objects([], device="cpu")
    rows = np.ones((2, 78), np.float32)
    assert events_of(caplog) == []

    for _ in range(3):
        objects.anomaly_model.predict(rows)
        objects.behavior_model(torch.from_numpy(objects.scaler.transform(rows)))

    names = ["dummy_anomaly_model_active", "dummy_scaler_active", "dummy_behavior_model_active"]
    assert events_of(caplog) == [(name, "using_fallback") for name in names]


def test_a_live_layer_is_returned_in_the_form_of_the_older_engine(
    old: Mapping[str, OldLayer],
    network: nn.Sequential,
    scaler: StandardScaler,
    forest: IsolationForest,
    later: NDArray[np.float32],
    caplog: pytest.LogCaptureFixture,
) -> None:
    flows, deep = flow_model(old["anomaly"], later), behavior_model(old["behavior"], later)
    processes, _ = process_model(old["anomaly"], None)

    objects = legacy_objects(
        [release({Kind.FLOW: flows, Kind.PROCESS: processes}), release({Kind.FLOW: deep})],
        device="cpu",
    )
    with torch.inference_mode():
        chance = objects.behavior_model(
            torch.from_numpy(objects.scaler.transform(later.astype(np.float64)).astype(np.float32))
        )

    expected = expit(logits(network.state_dict(), scaler.transform(later.astype(np.float64))))
    assert np.abs(chance.numpy()[:, 0] - expected).max() <= AGREE
    assert (objects.anomaly_model.predict(later) == forest.predict(later)).all()
    assert objects.process_frequencies == LAUNCHES
    assert events_of(caplog) == []


def test_half_a_layer_is_absent(old: Mapping[str, OldLayer], later: NDArray[np.float32]) -> None:
    """S0-07: a forest without its process counts is replaced with them."""
    objects = legacy_objects(
        [release({Kind.FLOW: flow_model(old["anomaly"], later)})], device="cpu"
    )

    assert objects.anomaly_model.predict(later[:2]).tolist() == [0.0, 0.0]
    assert objects.process_frequencies == {}


def test_one_absent_layer_leaves_the_other_live(
    old: Mapping[str, OldLayer], later: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    """S0-01."""
    objects = legacy_objects(
        [release({Kind.FLOW: behavior_model(old["behavior"], later)})], device="cpu"
    )

    assert objects.process_frequencies == {}
    objects.anomaly_model.predict(later)
    objects.scaler.transform(later)
    assert [event for event, _ in events_of(caplog)] == ["dummy_anomaly_model_active"]


def test_the_face_of_legacy_loads_nothing_heavy() -> None:
    """The sandbox's child imports the package too, and decodes with little memory."""
    code = (
        "import sys, ensemble.legacy\n"
        "print(sorted({'torch', 'sklearn', 'joblib', 'numpy'} & sys.modules.keys()))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_the_example_runs_with_a_layer_and_without(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(os.environ, "AXON_STATE", str(tmp_path))
    main = runpy.run_path(str(EXAMPLE))["main"]

    main([])
    main(["--without", "behavior"])

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 4
    assert "0.100: not malicious" not in "\n".join(lines[:4])
    assert all("probability 0.100: not malicious" in line for line in lines[5:])
