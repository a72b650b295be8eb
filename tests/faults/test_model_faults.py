"""Faults of models, for each layer, at a start and as a new version (P1, P5; F1 to F24).

One ensemble in this process meets them in turn; test_model_faults_live.py is about a service.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.config.settings import ROOT
from deployments.config.trust import read_trust_file
from ensemble.errors import ArtifactError
from ensemble.events import Kind
from ensemble.layers.catalog import LAYERS
from ensemble.store.layout import Store
from ensemble.store.signing import Signer, Trust
from ensemble.verdicts import LayerStatus
from tests.support.faulty_models import FaultyModels
from tests.support.file_faults import FILE_FAULTS, put
from tests.support.model_faults import CANARY, MODEL_FAULTS, MODELS, ModelFault
from tests.support.running_service import IS_LONG
from tests.support.tenant_layers import TenantLayers

Errors = tuple[type[ArtifactError], ...]

TENANT = "acme"
HARMLESS = MODEL_FAULTS["F6 other libraries"]
ONE_OF_EACH_LAYER = ("anomaly-flow", "behavior-flow", "classifier-flow", "posture-inventory")
CASES = [
    pytest.param(model, fault, id=f"{model}: {name}")
    for name, fault in MODEL_FAULTS.items()
    for model in fault.models
    if IS_LONG or model in ONE_OF_EACH_LAYER
]


class World:
    """A serving ensemble of tenant acme, and the store that it follows."""

    def __init__(self, folder: Path, signer: Signer, untrusted: Signer) -> None:
        trust = Trust({signer.key_id: signer.public}, frozenset())
        self.store = Store(folder / "state", None, trust)
        pins = read_trust_file(ROOT / "configs" / "trust.yaml").trust()
        shipped = Store(folder / "none", ROOT / "artifacts", pins)
        self.models = FaultyModels(self.store, shipped, signer, untrusted)
        self.good = self.models.promote_good(TENANT)
        self.serving = TenantLayers(self.store, TENANT, None)
        self.serving.refresh()
        self._tenants = 0
        self.answers = self.serving.answers()

    @property
    def good_name(self) -> str:
        return f"{TENANT}/{self.good.serial}"

    def new_tenant(self) -> str:
        """Name a tenant that has nothing yet."""
        self._tenants += 1
        return f"tenant-{self._tenants}"

    @staticmethod
    def problems_of(slots: TenantLayers) -> set[str]:
        """Codes of what is wrong with the release that should serve."""
        states = (slots[layer].state() for layer in LAYERS)
        return {one.problem.code for state in states for one in state.kinds.values() if one.problem}

    def start(self, tenant: str) -> TenantLayers:
        """Start the layers of a tenant; models that are equal are not built again."""
        started = TenantLayers(self.store, tenant, self.serving)
        started.refresh()
        return started


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, signer: Signer, untrusted_signer: Signer
) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield World(tmp_path_factory.mktemp("world"), signer, untrusted_signer)


def struck(model: str) -> set[tuple[str, Kind]]:
    """The layer and the kinds of event of a model."""
    layer = MODELS[model]
    return {(layer, kind) for kind, names in LAYERS[layer].kinds.items() if model in names}


@pytest.mark.parametrize(("model", "fault"), CASES)
def test_a_layer_that_starts_on_a_fault_falls_back_and_affects_no_other(
    world: World, model: str, fault: ModelFault
) -> None:
    """P1: the slot says why; nothing raises, and every other layer and kind is byte-equal."""
    tenant = world.new_tenant()
    world.models.promote_with(tenant, model, fault)

    started = world.start(tenant)

    now = started.answers()
    assert {key for key in now if now[key] != world.answers[key]} == (
        struck(model) if fault.codes else set()
    )
    for layer, kind in struck(model):
        state = started[layer].state().kinds[kind]
        if fault.codes:
            assert (state.status, state.reason in fault.codes) == (LayerStatus.FALLBACK, True)
        else:
            assert state.status is LayerStatus.LIVE
        started[layer].check_health()  # a restart would not help
    assert not CANARY.exists()


@pytest.mark.parametrize(("model", "fault"), CASES)
def test_a_new_version_with_a_fault_changes_no_answer_and_is_reported(
    world: World, model: str, fault: ModelFault
) -> None:
    """P5: the version before serves, byte-equal; P7: the next good one ends the problem."""
    slot = world.serving[MODELS[model]]
    world.models.promote_with(TENANT, model, fault)
    world.serving.events.clear()

    slot.refresh()

    problems = {slot.state().kinds[kind].problem for _, kind in struck(model)}
    if fault.codes:
        assert world.serving.answers(world.good_name) == world.answers
        assert {problem.code if problem else "" for problem in problems} <= fault.codes
        assert "load_failed" in {one.what for one in world.serving.events}
    else:
        assert problems == {None}
    assert not CANARY.exists()
    world.models.return_to(TENANT, world.good)
    slot.refresh()
    assert world.serving.answers() == world.answers
    assert world.problems_of(world.serving) == set()


@pytest.mark.parametrize(("spoil", "expected"), FILE_FAULTS.values(), ids=FILE_FAULTS.keys())
@pytest.mark.parametrize("file", ["CURRENT", "releases/1.json"])
def test_a_fault_of_the_pointer_or_the_release_is_one_of_every_layer(
    world: World, spoil: Callable[[Path], object], expected: Errors, file: str
) -> None:
    """P1, P5: at a start every layer falls back; a serving release that was read goes on."""
    tenant = world.new_tenant()
    world.models.promote_good(tenant)
    serving = world.start(tenant)
    before = serving.answers()

    spoil(world.store.state / "tenants" / tenant / file)
    serving.refresh()
    started = world.start(tenant)

    codes = {error.code for error in expected}
    assert serving.answers() == before
    assert world.problems_of(serving) <= codes
    assert world.problems_of(serving)
    for layer in LAYERS:
        assert started[layer].absence[0] is LayerStatus.FALLBACK
        assert started[layer].absence[1] in codes


@pytest.mark.parametrize(
    ("fault", "text"),
    [(errno.EACCES, "permission"), (errno.EIO, "EIO"), (errno.ESTALE, "ESTALE")],
    ids=["F12 permission denied", "F14 EIO", "F14 ESTALE"],
)
@pytest.mark.parametrize("model", MODELS)
def test_a_disk_that_fails_is_reported_by_the_layers_whose_files_it_has(
    world: World, model: str, fault: int, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F12, F14: no permission is denied to root, so `os.open` fails for the folder of one model."""
    tenant = world.new_tenant()
    world.models.promote_with(tenant, model, HARMLESS)
    honest = os.open
    spoiled = world.store.state / "tenants" / tenant / "bundles" / model / "1"

    def failing(path: str, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> int:
        if dir_fd is not None and Path(f"/proc/self/fd/{dir_fd}").readlink() == spoiled:
            raise OSError(fault, "failing")
        return honest(path, *args, dir_fd=dir_fd, **kwargs)

    monkeypatch.setattr(os, "open", failing)

    started = world.start(tenant)

    now = started.answers()
    assert {key for key in now if now[key] != world.answers[key]} == struck(model)
    for layer, kind in struck(model):
        problem = started[layer].state().kinds[kind].problem
        assert problem is not None
        assert (problem.code, text in problem.message) == ("ARTIFACT_UNREADABLE", True)
    monkeypatch.undo()
    for layer in LAYERS:  # the disk is well again
        started[layer].reset()
    started.refresh()
    assert started.answers().keys() == world.answers.keys()
    assert world.problems_of(started) == set()


def test_an_older_pointer_that_comes_back_changes_no_answer_and_is_reported(world: World) -> None:
    """F19: the pointer before a rollback, replayed by a copy tool or an attacker."""
    tenant = world.new_tenant()
    good = world.models.promote_good(tenant)
    pointer = world.store.state / "tenants" / tenant / "CURRENT"
    old = pointer.read_bytes()
    world.models.promote_good(tenant)
    world.models.return_to(tenant, good)
    serving = world.start(tenant)
    before = serving.answers()

    put(pointer, old)
    serving.refresh()

    assert serving.answers() == before
    assert world.problems_of(serving) == {"ARTIFACT_UNTRUSTED"}
