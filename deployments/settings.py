"""Settings: configs/default.yaml, and what a Serve config file lays over it. Refused whole, with every mistake named.

No number has a default in the code; each stands in configs/default.yaml with its unit and its reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ensemble.errors import MalformedEvent
from ensemble.store.names import Tenant

__all__ = ["ROOT", "IngressSettings", "LayerSettings", "Settings", "read_settings"]

ROOT = Path(__file__).resolve().parent.parent  # the repository: relative folders are below it, wherever a Ray worker runs
STATE_VARIABLE = "AXON_STATE"

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def _tenant(name: str) -> str:
    try:
        return str(Tenant(name))
    except MalformedEvent as problem:
        raise ValueError(problem.problem) from None  # what pydantic collects


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class StoreSettings(_Strict):
    """Where the models are, and whose are served."""

    state: Annotated[Path, Field(strict=False)]
    shipped: Annotated[Path, Field(strict=False)]
    tenant: Annotated[str, AfterValidator(_tenant)]


class ScalingSettings(_Strict):
    """How a deployment grows under load and shrinks after it."""

    num_cpus: Annotated[float, Field(ge=0)]
    min_replicas: Count
    max_replicas: Count
    max_ongoing_requests: Count
    target_ongoing_requests: Positive
    upscale_delay_s: Annotated[float, Field(ge=0)]
    downscale_delay_s: Annotated[float, Field(ge=0)]

    @model_validator(mode="after")
    def _least_is_not_above_most(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class IngressSettings(ScalingSettings):
    """The HTTP door: limits, deadline, micro-batching."""

    deadline_ms: Positive
    max_events: Count
    max_body_bytes: Count
    events_per_flush: Count
    flushes_in_flight: Count
    max_queued_requests: Count


class FusionSettings(_Strict):
    """What an operator may set of the fusion; the rest was fitted."""

    min_coverage: Share
    posture_bound: Annotated[float, Field(ge=0, le=2)]


class PostureSettings(_Strict):
    """When vulnerability data is old."""

    stale_after_days: Annotated[int, Field(ge=0)]
    expired_after_days: Count

    @model_validator(mode="after")
    def _stale_comes_before_expired(self) -> Self:
        if self.stale_after_days >= self.expired_after_days:
            raise ValueError("stale_after_days must be less than expired_after_days")
        return self


class LayerSettings(ScalingSettings):
    """One layer's deployment. `gpus` is a share of one GPU, 0 for the CPU, or `auto`."""

    gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=1)]


class LayersSettings(_Strict):
    """The layers that are deployed."""

    anomaly: LayerSettings
    behavior: LayerSettings
    resilience: LayerSettings


class Settings(_Strict):
    """All of it."""

    store: StoreSettings
    ingress: IngressSettings
    fusion: FusionSettings
    posture: PostureSettings
    layers: LayersSettings

    def layer(self, name: str) -> LayerSettings:
        """Settings of one layer by name."""
        return getattr(self.layers, name)  # type: ignore[no-any-return]  # the model has exactly these fields

    @property
    def state(self) -> Path:
        """Absolute folder of what a running Axon writes."""
        return ROOT / self.store.state

    @property
    def shipped(self) -> Path:
        """Absolute folder of the shipped models."""
        return ROOT / self.store.shipped


def read_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """configs/default.yaml with `overrides` laid over it; AXON_STATE wins over both for the state folder.

    Raises:
        pydantic.ValidationError: unknown keys, wrong types or numbers out of range; all of them in one message.
    """
    defaults = yaml.safe_load((ROOT / "configs" / "default.yaml").read_text())
    merged = _lay_over(defaults, overrides or {})
    state = os.environ.get(STATE_VARIABLE)
    if state:
        merged = _lay_over(merged, {"store": {"state": state}})
    return Settings.model_validate(merged)


def _lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for key, value in above.items():
        both[key] = _lay_over(both[key], value) if isinstance(value, Mapping) and isinstance(both.get(key), Mapping) else value
    return both
