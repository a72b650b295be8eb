"""The status of the ensemble: a short form for probes, a long form for operators.

It is made from what each layer's slot reports. A layer that is disabled or behind an open circuit
breaker is not live, whatever its slot reports, because a request would not reach it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from deployments.scoring.layer_client import DISABLED, BreakerView
from deployments.scoring.status_schema import (
    BreakerStatus,
    EnsembleDetail,
    Health,
    KindStatus,
    LayerDetail,
    LayerLine,
    Problem,
    Provider,
)
from deployments.scoring.verdict_wire import timestamp
from deployments.web import cause_of, describe_code
from ensemble.events import Kind
from ensemble.guard import BreakerState
from ensemble.layers import LAYERS
from ensemble.rollout import RolloutView
from ensemble.runtime import KindState, ReleaseFusion, SlotState
from ensemble.verdicts import SPEAKING, LayerStatus, SystemStatus, system_status

__all__ = ["EnsembleStatus", "build_status", "iso", "problem"]

UNREACHABLE = "the layer did not respond"
NOT_CALLED = "the circuit breaker is open: it is not called until a trial succeeds"
_HEALTHY = SPEAKING | {LayerStatus.NOT_APPLICABLE}  # a release may do without a layer


@dataclass(frozen=True, slots=True)
class EnsembleStatus:
    """The reports of all slots, and the status that the ingress derives from them.

    Attributes:
        status: the status of S0-12, of the layers that are evidence and have a share.
        coverage: share of the validated evidence on flows that is available, in [0, 1].
        coverage_by_kind: the same for each kind of event.
        release: name of the release that scores, "" for none.
        layers: layer -> kind -> its effective state: a layer that is not called is not live.
        needed: layer -> the kinds of event for which the release needs it.
        slots: layer -> what its slot reports, whether it is called or not.
        devices: layer -> where it computes.
        breakers: layer -> its circuit breaker; a layer that is not named has a closed one.
        disabled: layers that an operator disabled.
        rollout: the last canary rollout, None before the first.
        at: time of this status, seconds since 1970.
    """

    status: SystemStatus
    coverage: float
    coverage_by_kind: Mapping[Kind, float]
    release: str
    layers: Mapping[str, Mapping[Kind, KindState]]
    needed: Mapping[str, frozenset[Kind]]
    slots: Mapping[str, SlotState]
    devices: Mapping[str, str]
    breakers: Mapping[str, BreakerView] = field(default_factory=dict)
    disabled: frozenset[str] = frozenset()
    rollout: RolloutView | None = None
    at: float = 0.0

    def health(self) -> Health:
        """The body of GET /health."""
        return Health(**self._health())

    def public_health(self) -> Health:
        """The body of GET /health for callers without a key.

        Without versions, reasons and names of models.
        """
        health = self.health()
        providers = {
            layer: Provider(status=provider.status, version="", reason="")
            for layer, provider in health.providers.items()
        }
        return msgspec.structs.replace(health, available_models=[], providers=providers)

    def detail(self) -> EnsembleDetail:
        """The health, and each layer by kind of event: a part of GET /v1/status."""
        return EnsembleDetail(
            **self._health(),
            coverage_by_kind={str(kind): share for kind, share in self.coverage_by_kind.items()},
            release=self.release,
            rollout=self.rollout,
            time=iso(self.at),
            layers=[self._layer(layer) for layer in self.layers],
        )

    def summary(self) -> list[LayerLine]:
        """One line for each layer, for GET /v1/layers."""
        lines = []
        for layer, kinds in self.layers.items():
            slot = self.slots[layer].kinds if layer in self.slots else {}
            models = {str(kind): state.version for kind, state in slot.items() if state.version}
            provider = _provider(kinds)
            lines.append(
                LayerLine(
                    layer=layer,
                    model_loaded=bool(models),
                    enabled=layer not in self.disabled,
                    models=models,
                    status=provider.status,
                    version=provider.version,
                    reason=provider.reason,
                )
            )
        return lines

    def _health(self) -> dict[str, Any]:
        """The fields of `Health`."""
        available = [
            f"{layer}-{kind}@{state.version}"
            for layer, kinds in self.layers.items()
            for kind, state in kinds.items()
            if state.status in SPEAKING
        ]
        providers = {layer: _provider(kinds) for layer, kinds in self.layers.items()}
        is_complete = bool(self.release) and all(
            kinds[kind].status in _HEALTHY
            for layer, kinds in self.layers.items()
            for kind in self.needed[layer]
        )
        return {
            "status": "healthy" if is_complete else "degraded",
            "ml_status": self.status,
            "coverage": self.coverage,
            "models_loaded": len(available),
            "available_models": available,
            "providers": providers,
        }

    def _layer(self, layer: str) -> LayerDetail:
        slot, breaker = self.slots.get(layer), self.breakers.get(layer)
        return LayerDetail(
            layer=layer,
            device=self.devices.get(layer, ""),
            release=slot.release if slot else "",
            size_bytes=slot.size_bytes if slot else 0,
            files_present=slot.files_present if slot else None,
            breaker=BreakerStatus(
                state=breaker.state if breaker else BreakerState.CLOSED,
                since=iso(breaker.since) if breaker else "",
            ),
            kinds={
                kind: KindStatus(
                    status=state.status,
                    version=state.version,
                    reason=state.reason,
                    since=iso(state.since),
                    problem=_problem_of(state),
                )
                for kind, state in self.layers[layer].items()
            },
        )


def build_status(
    layers: Sequence[str],
    states: Mapping[str, tuple[SlotState, str]],
    release: ReleaseFusion,
    *,
    disabled: Iterable[str] = (),
    breakers: Mapping[str, BreakerView] | None = None,
    rollout: RolloutView | None = None,
    now: Callable[[], float] = time.time,
) -> EnsembleStatus:
    """Build the status of the ensemble; a layer that reported no state has the status `timeout`.

    Args:
        layers: all layers, in order.
        states: layer -> the state of its slot and its device, for the layers that responded.
        release: the release that scores.
        disabled: layers that an operator disabled.
        breakers: layer -> its circuit breaker; a layer that is not named has a closed one.
        rollout: the last canary rollout.
        now: seconds since 1970.
    """
    off, guarded, at = frozenset(disabled), dict(breakers or {}), now()
    effective: dict[str, Mapping[Kind, KindState]] = {}
    for layer in layers:
        no_state = KindState(LayerStatus.TIMEOUT, reason=UNREACHABLE)
        own = (
            states[layer][0].kinds
            if layer in states
            else dict.fromkeys(LAYERS[layer].kinds, no_state)
        )
        effective[layer] = {
            kind: _effective(state, guarded.get(layer), is_off=layer in off)
            for kind, state in own.items()
        }
    coverage = {kind: release.of(kind).coverage(_available(effective, kind)) for kind in Kind}
    flows = release.of(Kind.FLOW)
    flow_statuses = [
        kinds.get(Kind.FLOW, KindState(LayerStatus.NOT_APPLICABLE)).status
        for layer, kinds in effective.items()
        if LAYERS[layer].is_evidence and flows.weighs(layer)
    ]
    return EnsembleStatus(
        # without a release the models detect nothing
        status=system_status(flow_statuses) if release.name else SystemStatus.FALLBACK_MODE,
        coverage=coverage[Kind.FLOW],
        coverage_by_kind=coverage,
        release=release.name,
        layers=effective,
        needed={
            layer: frozenset(kind for kind in kinds if release.needs(layer, kind))
            for layer, kinds in effective.items()
        },
        slots={layer: state for layer, (state, _) in states.items()},
        devices={layer: device for layer, (_, device) in states.items()},
        breakers=guarded,
        disabled=off & set(layers),
        rollout=rollout,
        at=at,
    )


def problem(code: str, cause: str) -> Problem:
    """Describe a problem by its code, without the error's own text, which may contain a path."""
    return Problem(code=code, cause=cause, meaning=describe_code(code))


def iso(seconds: float) -> str:
    """Format a time in UTC, ISO 8601; "" for 0.0, which means unknown.

    Args:
        seconds: since 1970.
    """
    return timestamp(seconds, "seconds") if seconds else ""


def _available(layers: Mapping[str, Mapping[Kind, KindState]], kind: Kind) -> list[str]:
    return [
        layer for layer, kinds in layers.items() if kind in kinds and kinds[kind].status in SPEAKING
    ]


def _effective(state: KindState, breaker: BreakerView | None, *, is_off: bool) -> KindState:
    """The state that a request finds: disabled, not called, or as the slot reports."""
    if state.status is LayerStatus.NOT_APPLICABLE:
        return state
    if is_off:
        return replace(state, status=LayerStatus.DISABLED, reason=DISABLED)
    if breaker is not None and breaker.state != BreakerState.CLOSED:
        return replace(state, status=LayerStatus.OPEN, reason=NOT_CALLED, since=breaker.since)
    return state


def _problem_of(state: KindState) -> Problem | None:
    if state.problem is not None:
        return problem(state.problem.code, state.problem.cause)
    if describe_code(state.reason):  # a reason that is a code
        return problem(state.reason, cause_of(state.reason))
    return None


def _provider(kinds: Mapping[Kind, KindState]) -> Provider:
    """Summarize a layer: its first unavailable kind of event, or else its first kind."""
    ordered = [kinds[kind] for kind in Kind if kind in kinds]
    worst = next((state for state in ordered if state.status not in _HEALTHY), ordered[0])
    return Provider(
        status=worst.status, version=worst.version or ordered[0].version, reason=worst.reason
    )
