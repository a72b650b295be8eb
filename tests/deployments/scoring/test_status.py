"""The status of the ensemble, as a request would find it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from msgspec import to_builtins

from deployments.scoring.layer_client import BreakerView
from deployments.scoring.status import build_status, iso
from deployments.web.errors import describe_code
from ensemble import errors
from ensemble.events import Kind
from ensemble.fusion import Fusion
from ensemble.guard import BreakerState
from ensemble.layers import catalog
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.model_state import KindState
from ensemble.verdicts import LayerStatus, SystemStatus
from tests.support.slot_states import DOWN, FAILURE, FUSIONS, NOW, OWN_LAYER, slots


@dataclass(frozen=True)
class CanaryRollout:
    release: str
    share: float


def test_with_every_layer_down_the_status_is_fallback_mode() -> None:
    """P38: FALLBACK_MODE, and the status can still be built."""
    view = build_status(list(LAYERS), slots(**dict.fromkeys(LAYERS, DOWN)), FUSIONS)

    assert (view.status, view.coverage) == (SystemStatus.FALLBACK_MODE, 0.0)
    assert to_builtins(view.health())["status"] == "degraded"


def test_a_release_published_without_a_layer_is_complete() -> None:
    """It was published without the layer, so nothing is missing."""
    absent = KindState(
        LayerStatus.NOT_APPLICABLE, reason="the release was published without this layer"
    )

    view = build_status(list(LAYERS), slots(classifier=absent), FUSIONS)

    assert (view.status, view.coverage) == (SystemStatus.FULLY_OPERATIONAL, 1.0)
    assert to_builtins(view.health())["status"] == "healthy"
    assert to_builtins(view.health())["providers"]["classifier"]["status"] == "not_applicable"
    assert "classifier-flow@" not in str(to_builtins(view.health())["available_models"])


@pytest.mark.parametrize("state", [BreakerState.OPEN, BreakerState.HALF_OPEN])
def test_a_layer_behind_an_open_breaker_is_not_live(state: BreakerState) -> None:
    """Its slot reports live, but a request would not reach it."""
    view = build_status(
        list(LAYERS),
        slots(),
        FUSIONS,
        breakers={
            "behavior": BreakerView(state, NOW - 30),
            "anomaly": BreakerView(BreakerState.CLOSED, NOW - 30),
        },
        now=lambda: NOW,
    )

    assert view.layers["behavior"][Kind.FLOW].status is LayerStatus.OPEN
    assert view.layers["anomaly"][Kind.FLOW].status is LayerStatus.LIVE
    assert view.status is SystemStatus.PARTIALLY_OPERATIONAL
    detail = {layer["layer"]: layer for layer in to_builtins(view.detail())["layers"]}
    assert detail["behavior"]["breaker"] == {"state": state, "since": iso(NOW - 30)}
    assert detail["behavior"]["kinds"]["flow"]["since"] == iso(NOW - 30)
    assert detail["resilience"]["breaker"] == {"state": "closed", "since": ""}


def test_a_disabled_layer_is_disabled_whatever_its_slot_reports() -> None:
    view = build_status(list(LAYERS), slots(anomaly=DOWN), FUSIONS, disabled={"anomaly", "nobody"})

    assert view.layers["anomaly"][Kind.PROCESS].status is LayerStatus.DISABLED
    assert view.disabled == {"anomaly"}
    assert view.coverage_by_kind == {Kind.FLOW: pytest.approx(0.4), Kind.PROCESS: 0.0}


def test_a_layer_without_a_share_does_not_count_for_the_status_word() -> None:
    """As in a verdict. It is still shown as down, and the health is degraded."""
    view = build_status(list(LAYERS), slots(classifier=DOWN), FUSIONS)

    assert (view.status, view.coverage) == (SystemStatus.FULLY_OPERATIONAL, 1.0)
    assert view.layers["classifier"][Kind.FLOW].status is LayerStatus.FALLBACK
    assert to_builtins(view.health())["status"] == "degraded"


@pytest.mark.parametrize(
    ("share", "word"), [(0.0, "healthy"), (0.2, "degraded")], ids=["no share", "a share"]
)
def test_an_own_layer_counts_for_the_health_once_it_has_a_share(
    monkeypatch: pytest.MonkeyPatch, share: float, word: str
) -> None:
    """Before `axon calibrate` its failure changes no verdict, so the service is healthy."""
    monkeypatch.setitem(catalog._layers, "extremes", OWN_LAYER)
    shares = {"anomaly": 0.6, "behavior": 0.4 - share, "extremes": share}
    release = replace(FUSIONS, fusions={Kind.FLOW: Fusion(shares, 1.0, {})})

    view = build_status(list(LAYERS), slots(extremes=DOWN), release)

    health = to_builtins(view.health())
    assert health["status"] == word
    assert health["providers"]["extremes"]["status"] == "fallback"


def test_the_problem_of_a_layer_is_shown_without_the_text_of_its_error() -> None:
    """C-03: the error's text may contain a path; it is in the log."""
    view = build_status(list(LAYERS), slots(behavior=DOWN), FUSIONS, now=lambda: NOW)

    detail = to_builtins(view.detail())
    flow = next(layer for layer in detail["layers"] if layer["layer"] == "behavior")["kinds"][
        "flow"
    ]
    assert flow["problem"] == {
        "code": "ARTIFACT_CORRUPT",
        "cause": "files",
        "meaning": "The bytes are not the bytes that were published.",
    }
    assert flow["since"] == iso(NOW - 60)
    assert "/srv" not in str(detail)


def test_a_problem_is_shown_although_a_model_serves() -> None:
    """An older model serves because the new one could not be loaded."""
    kept = KindState(LayerStatus.LAST_GOOD, "1", "ARTIFACT_CORRUPT", NOW, FAILURE)

    view = build_status(list(LAYERS), slots(behavior=kept), FUSIONS)

    kinds = next(
        layer for layer in to_builtins(view.detail())["layers"] if layer["layer"] == "behavior"
    )["kinds"]
    assert (view.status, kinds["flow"]["problem"]["code"]) == (
        SystemStatus.FULLY_OPERATIONAL,
        "ARTIFACT_CORRUPT",
    )


def test_the_rollout_is_shown() -> None:
    """S1-08, N-12."""
    view = build_status(list(LAYERS), slots(), FUSIONS, rollout=CanaryRollout("default/2", 0.1))

    assert to_builtins(view.detail())["rollout"] == {"release": "default/2", "share": 0.1}


def test_a_layer_that_does_not_respond_has_no_known_models() -> None:
    said = {layer: state for layer, state in slots().items() if layer != "behavior"}

    view = build_status(list(LAYERS), said, FUSIONS)

    listed = {layer["layer"]: layer for layer in to_builtins(view.summary())}
    assert (listed["behavior"]["model_loaded"], listed["behavior"]["status"]) == (False, "timeout")
    assert (
        next(
            layer for layer in to_builtins(view.detail())["layers"] if layer["layer"] == "behavior"
        )["files_present"]
        is None
    )


def test_a_time_is_in_utc_and_an_unknown_time_is_empty() -> None:
    assert iso(0.0) == ""
    assert iso(1_795_214_400.0) == "2026-11-20T22:40:00Z"


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "EnsembleError"])
def test_every_code_has_a_meaning(name: str) -> None:
    assert describe_code(getattr(errors, name).code)


def test_a_foreign_code_has_no_meaning() -> None:
    assert describe_code("E_WHATEVER") == ""
