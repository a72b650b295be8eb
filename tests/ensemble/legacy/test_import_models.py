"""Import of the four files as models that serve, and export of such models to the four files."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler
from torch import nn

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactIncompatible,
    ArtifactMissing,
    ArtifactUnreadable,
    InsufficientMemory,
    TrainingError,
)
from ensemble.events import FlowBatch, Kind, ProcessBatch, ProcessEvent
from ensemble.layers.behavior import DeepBehavior
from ensemble.layers.flow_anomaly import FlowAnomaly
from ensemble.layers.process_anomaly import ProcessAnomaly
from ensemble.layers.rarity import RarityTable
from ensemble.legacy.export_models import Exported, checksums, export_anomaly, export_behavior
from ensemble.legacy.files import CHECKSUMS, CLASSIFIER, FOREST, FREQUENCIES, SCALER, read_pair
from ensemble.legacy.forest_export import sklearn_forest
from ensemble.legacy.import_models import (
    OldLayer,
    behavior_model,
    flow_model,
    process_model,
    read_old_models,
)
from ensemble.legacy.network_export import older_network, softplus_bends
from ensemble.legacy.sandbox import read_answer
from ensemble.legacy.sandbox_child import answer
from ensemble.model import Model
from ensemble.store.bundles.codecs import decode_parts, encode_parts
from ensemble.store.files import safe_read
from ensemble.training.data.flow_table import FlowTable
from ensemble.training.publish import golden_flows, golden_of
from ensemble.training.recipes.flow_ensemble import FlowLayers
from tests.support.legacy_models import AGREE, LAUNCHES, LIMITS, TERMS, logits, pickled

PLENTY = 1 << 40


def reread(exported: Exported) -> OldLayer:
    """Import exported files again; they are trusted, so without the child."""
    return OldLayer(
        {
            name: read_answer(name, answer(name, data, TERMS), LIMITS)
            for name, data in exported.files.items()
        },
        {},
    )


def opened(data: bytes) -> Any:
    """Open joblib files as the older engine does; these are trusted."""
    return joblib.load(io.BytesIO(data))


def batch(features: NDArray[np.float32]) -> FlowBatch:
    return FlowBatch(("",) * len(features), ("",) * len(features), features)


# -- in: a folder


def test_a_valid_folder_gives_both_layers(folder: Path) -> None:
    old = read_old_models(folder, LIMITS, available_bytes=PLENTY)

    assert set(old.layers) == {"anomaly", "behavior"}
    assert (old.failures, old.absent) == ({}, ())
    assert old.layers["anomaly"].digests[FOREST] == safe_read.sha256_of(
        (folder / FOREST).read_bytes()
    )


def test_a_corrupt_forest_fails_its_layer_and_no_other(folder: Path) -> None:
    """S0-01, S0-07, S0-27."""
    (folder / FOREST).write_bytes(b"not a model")

    old = read_old_models(folder, LIMITS, available_bytes=PLENTY)

    assert set(old.layers) == {"behavior"}
    assert isinstance(old.failures["anomaly"], ArtifactCorrupt)


def test_an_empty_folder_has_two_absent_layers_and_no_failure(tmp_path: Path) -> None:
    """S0-28."""
    old = read_old_models(tmp_path, LIMITS, available_bytes=PLENTY)

    assert (old.layers, old.failures, set(old.absent)) == ({}, {}, {"anomaly", "behavior"})


def test_a_model_of_another_version_names_the_version(
    folder: Path, forest: IsolationForest
) -> None:
    """S0-29."""
    stamped = pickled(forest).replace(b"\x05" + TERMS.sklearn.encode(), b"\x051.3.0")
    (folder / FOREST).write_bytes(stamped)

    old = read_old_models(folder, LIMITS, available_bytes=PLENTY)

    assert "incompatible sklearn version 1.3.0" in str(old.failures["anomaly"])
    assert old.failures["anomaly"].cause == "dependencies"


def test_a_failing_disk_fails_both_layers_with_the_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S0-30, F14."""
    real = os.open

    def fails(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith((".joblib", ".pth")):
            raise OSError(errno.EIO, "Input/output error")
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(safe_read.os, "open", fails)
    old = read_old_models(folder, LIMITS, available_bytes=PLENTY)

    assert {type(failure) for failure in old.failures.values()} == {ArtifactUnreadable}
    assert set(old.failures) == {"anomaly", "behavior"}


@pytest.mark.parametrize("name", [FOREST, FREQUENCIES])
def test_one_file_of_a_pair_is_not_enough(folder: Path, name: str) -> None:
    """S0-02, S0-07."""
    (folder / name).unlink()

    old = read_old_models(folder, LIMITS, available_bytes=PLENTY)

    assert isinstance(old.failures["anomaly"], ArtifactMissing)
    assert name in str(old.failures["anomaly"])


def test_members_that_do_not_fit_each_other_fail_together(
    folder: Path, benign: NDArray[np.float32]
) -> None:
    """F10, F19: the scaler of one model with the network of another."""
    names = ["Flow Duration", "Flow IAT Mean"]
    scaler = StandardScaler().fit(benign[:, :2].astype(np.float64))
    scaler.feature_names_in_ = np.array(names, dtype=object)
    (folder / SCALER).write_bytes(pickled(scaler))

    old = read_old_models(folder, LIMITS, available_bytes=PLENTY)

    assert isinstance(old.failures["behavior"], ArtifactIncompatible)
    assert "a network of 2 features" in str(old.failures["behavior"])


def test_nothing_is_started_without_the_memory_for_it(folder: Path) -> None:
    """S1-11."""
    with pytest.raises(InsufficientMemory, match="Insufficient memory"):
        read_old_models(folder, LIMITS, available_bytes=LIMITS.memory_bytes - 1)


# -- in: what the models say


def test_an_imported_forest_has_the_same_scores(
    old: Mapping[str, OldLayer], forest: IsolationForest, later: NDArray[np.float32]
) -> None:
    model = flow_model(old["anomaly"], later)

    assert (
        np.abs(model.detectors.raw(later)["isolation"] + forest.score_samples(later)).max() <= AGREE
    )
    order = np.argsort(-forest.score_samples(later), kind="stable")
    assert (
        np.diff(model.score(batch(later)).scores[order]) >= -AGREE
    ).all()  # a more anomalous row never scores less


def test_an_imported_network_has_the_same_logits(
    old: Mapping[str, OldLayer],
    network: nn.Sequential,
    scaler: StandardScaler,
    later: NDArray[np.float32],
) -> None:
    """78-256-128-64-1: its logit is the margin of Axon's network."""
    model = behavior_model(old["behavior"], later)

    assert (
        np.abs(
            model.raw(later)
            - logits(network.state_dict(), scaler.transform(later.astype(np.float64)))
        ).max()
        <= AGREE
    )


def test_imported_layers_are_calibrated_on_benign_flows(
    old: Mapping[str, OldLayer], later: NDArray[np.float32]
) -> None:
    """DESIGN, section 4: benign flows score near the prior of 1 %."""
    for model in (flow_model(old["anomaly"], later), behavior_model(old["behavior"], later)):
        scores = model.score(batch(later)).scores
        assert np.median(scores) < 0.02
        assert (scores > 0.5).mean() < 0.01


def test_too_few_benign_flows_calibrate_nothing(
    old: Mapping[str, OldLayer], later: NDArray[np.float32]
) -> None:
    for make in (flow_model, behavior_model):
        with pytest.raises(TrainingError, match="5 benign events cannot calibrate"):
            make(old["anomaly" if make is flow_model else "behavior"], later[:5])


def test_imported_counts_rate_what_is_rare(old: Mapping[str, OldLayer]) -> None:
    model, benign = process_model(old["anomaly"], None)

    names = ("svchost.exe", "psexec.exe", "never-seen.exe")
    scores = model.score(ProcessBatch.of([ProcessEvent(name) for name in names])).scores
    assert model.rarity.launches() == LAUNCHES
    assert scores[0] < scores[1] <= scores[2]
    assert np.median(benign) == pytest.approx(np.log(scores[0] / (1 - scores[0])))


def test_spellings_of_one_program_are_added_up() -> None:
    table = RarityTable.of_everyone({"C:\\Windows\\cmd.exe": 2, "CMD.EXE": 3, "sh": 1})

    assert table.launches() == {"cmd.exe": 5, "sh": 1}


def test_imported_models_come_back_from_their_bundles_equal(
    old: Mapping[str, OldLayer], later: NDArray[np.float32]
) -> None:
    """A forest alone is a valid anomaly model, with golden answers."""
    flows, deep, (processes, _) = (
        flow_model(old["anomaly"], later),
        behavior_model(old["behavior"], later),
        process_model(old["anomaly"], None),
    )
    events = golden_flows(later, np.zeros(len(later), np.bool_))

    again = FlowAnomaly.from_parts(decode_parts(encode_parts(flows.to_parts())))
    assert again.detectors.names == ("isolation",)
    for model, loaded in (
        (flows, again),
        (deep, DeepBehavior.from_parts(decode_parts(encode_parts(deep.to_parts())))),
    ):
        assert golden_of(model, Kind.FLOW, events) == golden_of(loaded, Kind.FLOW, events)
    known = [{"name": "cmd.exe"}, {"name": "unheard"}]
    loaded_processes = ProcessAnomaly.from_parts(decode_parts(encode_parts(processes.to_parts())))
    assert golden_of(processes, Kind.PROCESS, known) == golden_of(
        loaded_processes, Kind.PROCESS, known
    )


def test_an_imported_forest_has_no_explanation(
    old: Mapping[str, OldLayer], later: NDArray[np.float32]
) -> None:
    model: Model = flow_model(old["anomaly"], later)

    assert model.score(batch(later[:3]), explain=True).details == {}


# -- out


def test_an_exported_forest_has_the_same_scores(layers: FlowLayers, fresh: FlowTable) -> None:
    """A real IsolationForest over raw features; Axon's reads scaled ones."""
    own = layers.anomaly.detectors

    fitted = sklearn_forest(own.forest, own.scaler)

    assert type(fitted) is IsolationForest
    assert (
        np.abs(fitted.score_samples(fresh.features) + own.raw(fresh.features)["isolation"]).max()
        <= AGREE
    )
    assert set(fitted.predict(fresh.features)) <= {-1, 1}


def processes_of(counts: Mapping[str, int]) -> ProcessAnomaly:
    parts = read_answer(FREQUENCIES, answer(FREQUENCIES, pickled(dict(counts)), TERMS), LIMITS)
    return process_model(OldLayer({FREQUENCIES: parts}, {}), None)[0]


def test_what_is_exported_and_imported_again_scores_the_same(
    layers: FlowLayers, fresh: FlowTable, later: NDArray[np.float32]
) -> None:
    """Layer 1: the forest and the counts, within 1e-6."""
    processes = processes_of(LAUNCHES)

    back = reread(export_anomaly(layers.anomaly, processes))

    ours = layers.anomaly.detectors.raw(fresh.features)["isolation"]
    assert (
        np.abs(flow_model(back, later).detectors.raw(fresh.features)["isolation"] - ours).max()
        <= AGREE
    )
    events = ProcessBatch.of([ProcessEvent(name) for name in (*LAUNCHES, "unheard")])
    again, _ = process_model(back, processes.rarity_calibration)
    assert np.abs(again.score(events).scores - processes.score(events).scores).max() <= AGREE


def test_an_imported_layer_is_exported_unchanged(
    old: Mapping[str, OldLayer], later: NDArray[np.float32]
) -> None:
    """Round trip of models that the older form can express exactly."""
    flows, deep = flow_model(old["anomaly"], later), behavior_model(old["behavior"], later)

    back = reread(export_behavior(deep))

    assert np.abs(behavior_model(back, later).raw(later) - deep.raw(later)).max() <= AGREE
    forest_back = flow_model(reread(export_anomaly(flows, processes_of(LAUNCHES))), later)
    assert (
        np.abs(forest_back.score(batch(later)).scores - flows.score(batch(later)).scores).max()
        <= AGREE
    )


def test_an_exported_network_is_within_its_stated_error(
    layers: FlowLayers, fresh: FlowTable
) -> None:
    """Several heads, families, scaling and clipping as linear layers and rectifiers."""
    exported = export_behavior(layers.behavior)
    state = torch.load(io.BytesIO(exported.files[CLASSIFIER]), weights_only=True)
    scaled = opened(exported.files[SCALER]).transform(fresh.features.astype(np.float64))

    error = older_network(layers.behavior)[1]

    off = np.abs(logits(state, scaled) - layers.behavior.raw(fresh.features))
    assert 0 < error < 0.01
    assert off.max() <= error + 1e-4  # float32 through seven layers
    assert f"within {error:.4f} log-odds" in exported.left_out[1]


def test_an_exported_network_imported_again_has_the_same_scores(
    layers: FlowLayers, fresh: FlowTable, later: NDArray[np.float32]
) -> None:
    exported = export_behavior(layers.behavior)
    state = torch.load(io.BytesIO(exported.files[CLASSIFIER]), weights_only=True)
    scaled = opened(exported.files[SCALER]).transform(fresh.features.astype(np.float64))

    again = behavior_model(reread(exported), later)

    assert np.abs(expit(again.raw(fresh.features)) - expit(logits(state, scaled))).max() <= AGREE


def test_values_below_zero_are_scaled_the_same(layers: FlowLayers, fresh: FlowTable) -> None:
    """CICFlowMeter writes a window of -1 bytes for none.

    A power transform alone would scale it otherwise.
    """
    features = fresh.features.copy()
    features[:, 66:68] = -1.0
    exported = export_behavior(layers.behavior)
    state = torch.load(io.BytesIO(exported.files[CLASSIFIER]), weights_only=True)

    off = np.abs(
        logits(state, opened(exported.files[SCALER]).transform(features.astype(np.float64)))
        - layers.behavior.raw(features)
    )

    assert off.max() <= older_network(layers.behavior)[1] + 1e-4


def test_the_line_in_place_of_softplus_has_its_stated_error_everywhere() -> None:
    bends, slopes, start, error = softplus_bends(32)
    at = np.random.default_rng(1).normal(0, 12, 5000)

    line = start + np.maximum(at[:, None] - bends, 0.0) @ slopes

    assert (
        np.abs(line - np.logaddexp(0.0, at)).max() <= error + 1e-6 < 0.002
    )  # which was found on a grid


def test_parts_that_the_older_form_lacks_are_listed(layers: FlowLayers) -> None:
    """Nothing is dropped silently."""
    left_out = export_anomaly(layers.anomaly, processes_of(LAUNCHES)).left_out

    assert any("subspace and codebook, which hold 95%" in one for one in left_out)
    assert any("thresholds" in one for one in left_out)


def test_exported_files_have_valid_checksums(layers: FlowLayers, tmp_path: Path) -> None:
    files = dict(export_anomaly(layers.anomaly, processes_of(LAUNCHES)).files)
    for name, data in (files | {CHECKSUMS: checksums(files)}).items():
        (tmp_path / name).write_bytes(data)

    assert read_pair(tmp_path, "anomaly", limit_bytes=1 << 26).warnings == ()


def test_a_model_with_an_odd_length_cannot_be_written_as_a_forest(layers: FlowLayers) -> None:
    own = layers.anomaly.detectors
    odd = replace(own.forest, path_length=own.forest.path_length + 0.123)

    with pytest.raises(ArtifactIncompatible, match="integer numbers of samples"):
        sklearn_forest(odd, own.scaler)
