"""Settings: configs/default.yaml, overridden by a Serve config file.

One mistake refuses all settings, and the error lists every mistake. No number has a default in the
code; configs/default.yaml has each with its unit, its range and its reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from deployments.config.layer_settings import (
    ROOT,
    Count,
    LayerSettings,
    LayersSettings,
    Positive,
    ScalingSettings,
    Strict,
)
from ensemble.errors import MalformedEvent
from ensemble.features import PlausibleTimes
from ensemble.rollout import RolloutRules
from ensemble.store import Tenant

__all__ = [
    "EMPTY_IF_NONE",
    "ROOT",
    "AuthSettings",
    "FusionSettings",
    "GuardSettings",
    "IngressSettings",
    "LayerSettings",
    "ManagementSettings",
    "RetroSettings",
    "RolloutSettings",
    "Settings",
    "TenantName",
    "deep_merge",
    "read_settings",
]

STATE_VARIABLE = "AXON_STATE"
TRUST_VARIABLE = "AXON_TRUST"
KEYS_VARIABLE = "AXON_KEYS"
PATH_VARIABLES = (
    (STATE_VARIABLE, "store", "state"),
    (TRUST_VARIABLE, "store", "trust"),
    (KEYS_VARIABLE, "auth", "keys"),
)
DISABLED_VARIABLE = "AXON_DISABLED_LAYERS"
DAY_S = 86_400.0

Share = Annotated[float, Field(ge=0, le=1)]


def _tenant(name: str) -> str:
    try:
        return str(Tenant(name))
    except MalformedEvent as problem:
        raise ValueError(problem.problem) from None  # pydantic collects it


TenantName = Annotated[str, AfterValidator(_tenant)]
EMPTY_IF_NONE = BeforeValidator(lambda value: {} if value is None else value)
"""Reads a key of YAML without entries below it, which is None, as an empty mapping."""


class StoreSettings(Strict):
    """Where the models are, which tenant's are served, and which keys are trusted."""

    state: Annotated[Path, Field(strict=False)]
    shipped: Annotated[Path, Field(strict=False)]
    trust: Annotated[Path, Field(strict=False)]
    tenant: TenantName
    parents: list[TenantName]
    tenants: Annotated[Path, Field(strict=False)]
    tenants_at_once: Annotated[int, Field(ge=2)]


def _off_as_text(value: Any) -> Any:  # noqa: ANN401  # YAML may have any value here
    """Read `mode: off` as text; YAML reads it as false."""
    return "off" if value is False else value


class AuthSettings(Strict):
    """Authentication, and the rate limit of a tenant."""

    mode: Annotated[Literal["keys", "off"], BeforeValidator(_off_as_text)]
    keys: Annotated[Path, Field(strict=False)]
    requests_per_s: Positive
    burst: Annotated[float, Field(ge=1)]  # below one, no request would be admitted
    bytes_per_request: Count
    stall_s: Annotated[float, Field(ge=0, le=10)]
    hosts: list[str]
    origins: list[str]


class IngressSettings(ScalingSettings):
    """The HTTP ingress: limits, deadline, micro-batching."""

    deadline_ms: Positive
    batch_deadline_ms: Positive
    max_events: Count
    max_body_bytes: Count
    time_ahead_s: Annotated[float, Field(ge=0)]
    time_behind_days: Positive
    events_per_flush: Count
    flushes_in_flight: Count
    parts_in_flight: Count
    parts_ms: Positive
    waiting_events: Count
    max_queued_requests: Count

    def plausible_times(self, now: float) -> PlausibleTimes:
        """The times of events that raise no flag at `now`, seconds since 1970."""
        return PlausibleTimes(now - self.time_behind_days * DAY_S, now + self.time_ahead_s)


class ReplicasSettings(Strict):
    """How Serve supervises the process of every replica."""

    health_check_period_s: Positive
    health_check_timeout_s: Positive
    graceful_shutdown_timeout_s: Positive
    routing_stats_period_s: Positive
    max_replicas_per_node: Count | None


class FusionSettings(Strict):
    """The parts of the fusion that an operator sets; training fits the rest."""

    min_coverage: Share
    posture_bound: Annotated[float, Field(ge=0, le=2)]


class GuardSettings(Strict):
    """Circuit breaker, bulkhead and retry budget of each layer, in each ingress replica.

    configs/default.yaml and `ensemble.guard` explain each number.
    """

    failures_in_a_row: Count
    window: Count
    bad_share: Annotated[float, Field(gt=0, le=1)]
    hung_s: Positive
    open_s: Positive
    longest_open_s: Positive
    jitter: Share
    calls_in_flight: Count
    retry_share: Share
    retries_saved: Count

    @model_validator(mode="after")
    def _the_longest_is_not_shorter_than_the_first(self) -> Self:
        if self.open_s > self.longest_open_s:
            raise ValueError(
                f"open_s {self.open_s:g} is above longest_open_s {self.longest_open_s:g}"
            )
        return self


class RolloutSettings(Strict):
    """Canary rollout of a new release, and shadow evaluation of a challenger.

    configs/default.yaml and `ensemble.rollout.canary` explain each number.
    """

    shares: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    max_events_per_s: list[Positive]
    step_s: Annotated[float, Field(ge=0)]
    max_step_s: Annotated[float, Field(ge=0)]
    min_events: Annotated[int, Field(ge=0)]
    max_flip_ratio: Share
    max_failure_ratio: Share
    max_slowdown: Annotated[float, Field(ge=1)]
    slowdown_floor_ms: Annotated[float, Field(ge=0)]
    shadow_share: Share
    shadows_in_flight: Count

    @model_validator(mode="after")
    def _shares_rise_to_one(self) -> Self:
        if self.shares[-1] != 1.0 or any(one >= other for one, other in pairwise(self.shares)):
            raise ValueError("shares must rise and end with 1.0")
        if self.max_events_per_s and len(self.max_events_per_s) != len(self.shares) - 1:
            raise ValueError(
                "max_events_per_s must be [] or have one number for each share below 1.0"
            )
        if self.step_s > self.max_step_s:
            raise ValueError(f"step_s {self.step_s:g} is above max_step_s {self.max_step_s:g}")
        return self

    def rules(self) -> RolloutRules:
        """The rules for `ensemble.rollout`."""
        numbers = self.model_dump(
            exclude={"slowdown_floor_ms", "shadow_share", "shadows_in_flight"}
        )
        return RolloutRules(**numbers, slowdown_floor_s=self.slowdown_floor_ms / 1000.0)


class LegacySettings(Strict):
    """Limits of the process that decodes an older model file."""

    max_file_bytes: Count
    decode_memory_bytes: Count
    decode_cpu_s: Count
    decode_wall_s: Positive


class PostureSettings(Strict):
    """Ages at which vulnerability data is stale and expired."""

    stale_after_days: Annotated[int, Field(ge=0)]
    expired_after_days: Count

    @model_validator(mode="after")
    def _stale_comes_before_expired(self) -> Self:
        if self.stale_after_days >= self.expired_after_days:
            raise ValueError("stale_after_days must be less than expired_after_days")
        return self


class ControlsSettings(Strict):
    """Layers disabled by configuration, and how often switches and layers are polled."""

    disabled: list[str]
    look_every_s: Positive
    test_within_s: Positive


class RetroSettings(Strict):
    """The spool of events that wait to be rescored, and its findings."""

    enabled: bool
    max_mb: Count
    max_age_hours: Positive
    max_findings_mb: Count


class ManagementSettings(Strict):
    """The management application, its training jobs and its tabular detectors."""

    num_cpus: Annotated[float, Field(ge=0)]
    max_rows: Count
    max_body_bytes: Count
    job_seconds: Positive
    jobs_per_tenant: Count
    jobs_at_once: Count
    jobs_in_all: Count
    jobs_kept: Count
    jobs_kept_days: Count
    training_cpus: Positive
    detectors_at_once: Count
    max_ongoing_requests: Count
    max_queued_requests: Count
    store_threads: Count
    store_within_s: Positive
    replicas_within_s: Positive
    max_import_bytes: Count
    versions_per_model: Count
    models_per_tenant: Count
    models_mb_per_tenant: Count

    @model_validator(mode="after")
    def _queue_has_room_for_what_may_run(self) -> Self:
        if self.jobs_in_all < max(self.jobs_at_once, self.jobs_per_tenant):
            raise ValueError(
                f"jobs_in_all {self.jobs_in_all} is below jobs_at_once or jobs_per_tenant"
            )
        return self


class Settings(Strict):
    """All settings of Axon."""

    store: StoreSettings
    auth: AuthSettings
    ingress: IngressSettings
    replicas: ReplicasSettings
    fusion: FusionSettings
    guard: GuardSettings
    rollout: RolloutSettings
    legacy: LegacySettings
    posture: PostureSettings
    controls: ControlsSettings
    retro: RetroSettings
    management: ManagementSettings
    layers: LayersSettings

    @model_validator(mode="after")
    def _disabled_layers_exist(self) -> Self:
        unknown = sorted(set(self.controls.disabled) - self.layers.by_name.keys())
        if unknown:
            raise ValueError(
                f"controls.disabled names {', '.join(unknown)}; there are: "
                f"{', '.join(self.layers.by_name)}"
            )
        return self

    def layer(self, name: str) -> LayerSettings:
        """Settings of one layer."""
        return self.layers.by_name[name]

    @property
    def state(self) -> Path:
        """Absolute path of the folder that a running Axon writes."""
        return ROOT / self.store.state

    @property
    def shipped(self) -> Path:
        """Absolute path of the folder of the shipped models."""
        return ROOT / self.store.shipped

    @property
    def trust(self) -> Path:
        """Absolute path of the trust list."""
        return ROOT / self.store.trust

    @property
    def keys(self) -> Path:
        """Absolute path of the key file, which need not exist.

        A relative path starts at the state folder.
        """
        return self.state / self.auth.keys

    @property
    def tenants(self) -> Path:
        """Absolute path of the tenants file, which need not exist."""
        return ROOT / self.store.tenants


def read_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read configs/default.yaml, overridden by `overrides` and the environment.

    AXON_STATE, AXON_TRUST and AXON_KEYS override both for their setting. AXON_DISABLED_LAYERS, a
    comma-separated list, adds to the disabled layers.

    Raises:
        pydantic.ValidationError: unknown keys, wrong types or numbers out of range; one message
            lists all of them.
    """
    # ten times as fast as `safe_load`
    text = (ROOT / "configs" / "default.yaml").read_text()
    defaults = yaml.load(text, Loader=yaml.CSafeLoader)
    merged = deep_merge(defaults, overrides or {})
    for variable, section, setting in PATH_VARIABLES:
        if named := os.environ.get(variable):
            merged = deep_merge(merged, {section: {setting: named}})
    disabled = [
        name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",") if name.strip()
    ]
    if disabled:
        configured = (
            merged["controls"].get("disabled")
            if isinstance(merged.get("controls"), Mapping)
            else None
        )
        merged = deep_merge(merged, {"controls": {"disabled": [*(configured or []), *disabled]}})
    return Settings.model_validate(merged)


def deep_merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Copy `below` with the values of `above` in place of its own, at every depth."""
    both = dict(below)
    for key, value in above.items():
        both[key] = (
            deep_merge(both[key], value)
            if isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
            else value
        )
    return both
