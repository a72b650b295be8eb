"""The ensemble as its operators see it.

One view, in a short form for probes and a long form for people.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from deployments.scoring.status_schema import (
    Health,
    KindStatus,
    LayerDetail,
    LayerLine,
    Provider,
    Trouble,
)
from deployments.web import cause_of, describe_code
from ensemble.events import Kind
from ensemble.guard import BreakerState
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.model_state import KindState, SlotState
from ensemble.runtime.release_fusion import ReleaseFusion
from ensemble.verdicts import SPEAKING, LayerStatus, SystemStatus, system_status

__all__ = ["Breaker", "EnsembleStatus", "build_status", "iso"]

UNREACHABLE = "the layer did not answer"
DISABLED = "switched off by an operator"
NOT_ASKED = "the breaker is open: it is not asked until a trial succeeds"
CLOSED = "closed"
_WELL = SPEAKING | {LayerStatus.NOT_APPLICABLE}  # a release that does without a layer lacks nothing


class Breaker(Protocol):
    """A layer's breaker, as the fan-out shows it."""

    @property
    def state(self) -> str:
        """`closed`, `half_open` or `open`."""

    @property
    def since(self) -> float:
        """When it left `closed` or came back there, seconds since 1970."""


@dataclass(frozen=True, slots=True)
class EnsembleStatus:
    """What every slot said of itself, and what the ingress makes of it.

    Attributes:
        status: the word of S0-12 for the slots that hold evidence.
        coverage: share of the validated evidence on flows whose layers speak, in [0, 1].
        coverage_by_kind: the same for each kind of event.
        release: name of the release that is fused with, "" for none.
        layers: layer -> kind -> how it stands, as a request would find it: a layer that is not
            asked is not live.
        slots: layer -> what its slot said of itself, whether it is asked or not.
        devices: layer -> where it computes.
        breakers: layer -> how its breaker stands; closed where it is not named.
        disabled: layers that are switched off.
        rollout: how the bringing-in of a release goes, None where there is none.
        at: when this was seen, seconds since 1970.
    """

    status: SystemStatus
    coverage: float
    coverage_by_kind: Mapping[Kind, float]
    release: str
    layers: Mapping[str, Mapping[Kind, KindState]]
    slots: Mapping[str, SlotState]
    devices: Mapping[str, str]
    breakers: Mapping[str, Breaker] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    rollout: Any = None
    at: float = 0.0

    def health(self) -> Health:
        """The body of GET /health: 200 as long as the process can answer."""
        loaded = [
            f"{layer}-{kind}@{state.version}"
            for layer, kinds in self.layers.items()
            for kind, state in kinds.items()
            if state.status in SPEAKING
        ]
        providers = {layer: _provider(kinds) for layer, kinds in self.layers.items()}
        is_whole = bool(self.release) and all(
            provider["status"] in _WELL for provider in providers.values()
        )
        return {
            "status": "healthy" if is_whole else "degraded",
            "ml_status": self.status,
            "coverage": self.coverage,
            "models_loaded": len(loaded),
            "available_models": loaded,
            "providers": providers,
        }

    def detail(self) -> dict[str, Any]:
        """The health, and each layer by kind of event, for GET /v1/status."""
        return {
            **self.health(),
            "coverage_by_kind": dict(self.coverage_by_kind),
            "release": self.release,
            "rollout": None if self.rollout is None else asdict(self.rollout),
            "time": iso(self.at),
            "layers": [self._layer(layer) for layer in self.layers],
        }

    def summary(self) -> list[LayerLine]:
        """Each layer in a line, for GET /v1/layers."""
        return [
            {
                "layer": layer,
                "model_loaded": any(state.version for state in self._own(layer).values()),
                "enabled": layer not in self.disabled,
                "models": {
                    kind: state.version for kind, state in self._own(layer).items() if state.version
                },
                **_provider(kinds),
            }
            for layer, kinds in self.layers.items()
        ]

    def _own(self, layer: str) -> Mapping[Kind, KindState]:
        return self.slots[layer].kinds if layer in self.slots else {}

    def _layer(self, layer: str) -> LayerDetail:
        slot, breaker = self.slots.get(layer), self.breakers.get(layer)
        return {
            "layer": layer,
            "device": self.devices.get(layer, ""),
            "release": slot.release if slot else "",
            "size_bytes": slot.size_bytes if slot else 0,
            "files_present": slot.files_present if slot else None,
            "breaker": {"state": BreakerState(breaker.state), "since": iso(breaker.since)}
            if breaker
            else {"state": BreakerState.CLOSED, "since": ""},
            "kinds": {kind: _kind(state) for kind, state in self.layers[layer].items()},
        }


def build_status(
    layers: Sequence[str],
    said: Mapping[str, tuple[SlotState, str]],
    release: ReleaseFusion,
    *,
    disabled: Iterable[str] = (),
    breakers: Mapping[str, Breaker] | None = None,
    rollout: Any = None,  # noqa: ANN401  # a dataclass that this page only shows
    now: Callable[[], float] = time.time,
) -> EnsembleStatus:
    """The view made of what the layers said; a layer that said nothing is in `timeout`.

    Args:
        layers: all that are asked, in order.
        said: layer -> its slot's state and its device, for those that answered.
        release: that is fused with.
        disabled: layers that an operator switched off.
        breakers: layer -> how its breaker stands; closed where it is not named.
        rollout: how the bringing-in of a release goes.
        now: seconds since 1970.
    """
    off, guarded, at = frozenset(disabled), dict(breakers or {}), now()
    seen: dict[str, Mapping[Kind, KindState]] = {}
    for layer in layers:
        silent = dict.fromkeys(
            LAYERS[layer].kinds, KindState(LayerStatus.TIMEOUT, reason=UNREACHABLE)
        )
        own = said[layer][0].kinds if layer in said else silent
        seen[layer] = {
            kind: _as_asked(state, guarded.get(layer), is_off=layer in off)
            for kind, state in own.items()
        }
    coverage = {kind: release.of(kind).coverage(_speaking(seen, kind)) for kind in Kind}
    flow_status = {
        layer: kinds.get(Kind.FLOW, KindState(LayerStatus.NOT_APPLICABLE)).status
        for layer, kinds in seen.items()
    }
    return EnsembleStatus(
        status=system_status(
            status for layer, status in flow_status.items() if LAYERS[layer].is_evidence
        )
        if release.name
        else SystemStatus.FALLBACK_MODE,  # models that nothing is fused with detect nothing
        coverage=coverage[Kind.FLOW],
        coverage_by_kind=coverage,
        release=release.name,
        layers=seen,
        slots={layer: state for layer, (state, _) in said.items()},
        devices={layer: device for layer, (_, device) in said.items()},
        breakers=guarded,
        disabled=off & set(layers),
        rollout=rollout,
        at=at,
    )


def iso(seconds: float) -> str:
    """A time for people and machines, in UTC; "" for 0.0, which is no time that anybody knows.

    Args:
        seconds: since 1970.
    """
    return (
        datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        if seconds
        else ""
    )


def _speaking(seen: Mapping[str, Mapping[Kind, KindState]], kind: Kind) -> list[str]:
    return [
        layer for layer, kinds in seen.items() if kind in kinds and kinds[kind].status in SPEAKING
    ]


def _as_asked(state: KindState, breaker: Breaker | None, *, is_off: bool) -> KindState:
    """How a request finds the layer: off, not asked, or as its slot says."""
    if state.status is LayerStatus.NOT_APPLICABLE:
        return state
    if is_off:
        return replace(state, status=LayerStatus.DISABLED, reason=DISABLED)
    if breaker is not None and breaker.state != CLOSED:
        return replace(state, status=LayerStatus.OPEN, reason=NOT_ASKED, since=breaker.since)
    return state


def _kind(state: KindState) -> KindStatus:
    """A kind of event in the long form."""
    return {
        "status": state.status,
        "version": state.version,
        "reason": state.reason,
        "since": iso(state.since),
        "trouble": _trouble(state),
    }


def _trouble(state: KindState) -> Trouble | None:
    """What is wrong, by code.

    The trouble's own sentence stays in the log: it may hold what is no client's business.
    """
    if state.trouble is not None:
        return {
            "code": state.trouble.code,
            "cause": state.trouble.cause,
            "meaning": describe_code(state.trouble.code),
        }
    if describe_code(state.reason):  # a reason that is a code
        return {
            "code": state.reason,
            "cause": cause_of(state.reason),
            "meaning": describe_code(state.reason),
        }
    return None


def _provider(kinds: Mapping[Kind, KindState]) -> Provider:
    """One line for a layer.

    Its first kind that should speak and does not, or else its first kind.
    """
    ordered = [kinds[kind] for kind in Kind if kind in kinds]
    worst = next((state for state in ordered if state.status not in _WELL), ordered[0])
    return {
        "status": worst.status,
        "version": worst.version or ordered[0].version,
        "reason": worst.reason,
    }
