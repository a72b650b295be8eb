"""The types of the responses about the service, its status, its layers and its switches.

The OpenAPI document is made from these types; their docstrings become its descriptions.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from deployments.scoring.retro_spool import RetroCounts
from ensemble.guard import BreakerState
from ensemble.rollout import Agreement, RolloutView
from ensemble.verdicts import LayerStatus, SystemStatus

__all__ = [
    "BreakerStatus",
    "ControlsStatus",
    "EnsembleDetail",
    "Health",
    "KindStatus",
    "KindTest",
    "LayerDetail",
    "LayerLine",
    "LayerList",
    "LayerTest",
    "Limits",
    "Live",
    "Problem",
    "Provider",
    "Ready",
    "Service",
    "Status",
    "SwitchedLayer",
]

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0)]


class Limits(Struct, kw_only=True):
    """Limits of one request.

    Attributes:
        max_events: most events, or flows, in one batch.
        max_body_bytes: largest body, in bytes.
        deadline_ms: a layer that has not responded after this time is left out.
    """

    max_events: Count
    max_body_bytes: Count
    deadline_ms: float


class Service(Struct, kw_only=True):
    """The service.

    Attributes:
        version: version of Axon.
        model_version: name of the release that scores, "" for none.
        models: models that score now, each as `name@version`.
        routes: every route, with its method.
    """

    service: str
    version: str
    about: str
    model_version: str
    models: list[str]
    limits: Limits
    routes: list[str]


class Provider(Struct, kw_only=True):
    """A layer in one line: its first unavailable kind of event, or else its first kind.

    Attributes:
        status: status of the layer.
        version: version of its model, "" if none is loaded.
        reason: why it is unavailable, "" if it is available.
    """

    status: LayerStatus
    version: str
    reason: str


class Health(Struct, kw_only=True):
    """Whether the ensemble is complete.

    Attributes:
        status: `degraded` if any layer is unavailable.
        ml_status: how many of the layers that have a share in the score of flows are available.
        coverage: share of the validated evidence on flows that is available.
        models_loaded: number of `available_models`.
        available_models: models that score now, each as `name@version`.
        providers: layer -> its status.
    """

    status: str
    ml_status: SystemStatus
    coverage: Share
    models_loaded: Count
    available_models: list[str]
    providers: dict[str, Provider]


class Live(Struct, kw_only=True):
    """Whether the process responds; always true."""

    live: bool


class Ready(Struct, kw_only=True):
    """Whether the service can score; a degraded ensemble is ready."""

    ready: bool


class Problem(Struct, kw_only=True):
    """A problem of a model, a pointer or a release.

    Attributes:
        code: stable error code; the runbook explains it.
        cause: where to search first: files, resources, dependencies or configuration; "" if it is
            none of these.
        meaning: the code as a sentence.
    """

    code: str
    cause: str
    meaning: str


class KindStatus(Struct, kw_only=True):
    """The status of a layer for one kind of event.

    Attributes:
        since: when this status began, ISO 8601, "" if unknown.
        problem: the last problem of its model, also while an older model serves.
    """

    status: LayerStatus
    version: str
    reason: str
    since: str
    problem: Problem | None


class BreakerStatus(Struct, kw_only=True):
    """The circuit breaker of a layer; an open one stops the calls.

    Attributes:
        since: when it left `closed` or returned to it, ISO 8601, "" if unknown.
    """

    state: BreakerState
    since: str


class LayerDetail(Struct, kw_only=True):
    """A layer.

    Attributes:
        device: where it computes, "" if unknown.
        release: name of the release that it has loaded, "" for none.
        size_bytes: size of its models.
        files_present: whether all files of the release existed at the last poll; null if unknown.
        kinds: kind of event -> its status.
    """

    layer: str
    device: str
    release: str
    size_bytes: Count
    files_present: bool | None
    breaker: BreakerStatus
    kinds: dict[str, KindStatus]


class ControlsStatus(Struct, kw_only=True):
    """The switches that operators set.

    Attributes:
        disabled: layers that are not called.
        disabled_by_environment: those of them that only a restart without the variable enables.
        resets: layer -> how often an operator cleared its failures.
        rolled_back: promotion -> why it was rolled back automatically.
    """

    disabled: list[str]
    disabled_by_environment: list[str]
    resets: dict[str, Count]
    rolled_back: dict[str, str]


class EnsembleDetail(Health, kw_only=True):
    """The health, and each layer by kind of event.

    Attributes:
        coverage_by_kind: kind of event -> share of the validated evidence on it that is available.
        release: name of the release that scores, "" for none.
        rollout: the last canary rollout, with the counts of the caller's tenant, or of all tenants
            for a key that may `operate`; null before the first.
        time: time of this status, ISO 8601.
    """

    coverage_by_kind: dict[str, Share]
    release: str
    rollout: RolloutView | None
    time: str
    layers: list[LayerDetail]


class Status(EnsembleDetail, kw_only=True):
    """The ensemble of a tenant, in the long form.

    Attributes:
        coverage_by_kind: kind of event -> share of the validated evidence on it that is available.
        release: name of the release that scores, "" for none.
        rollout: the last canary rollout, with the counts of the caller's tenant, or of all tenants
            for a key that may `operate`; null before the first.
        time: time of this status, ISO 8601.
        wanted: name of the release that the pointer names, "" if the pointer cannot be read.
        pointer: `tenant#serial`, "" if it cannot be read.
        problem: what is wrong with pointer, release or fusion; null if nothing is.
        serving_tenant: tenant whose models serve: the caller's own, its group's, or the generic
            one.
        challenger: how the shadow challenger compares with the release that scores; null without
            a challenger.
        retro: events that wait to be rescored.
    """

    controls: ControlsStatus
    version: str
    tenant: str
    wanted: str
    pointer: str
    problem: Problem | None
    serving_tenant: str
    challenger: Agreement | None
    retro: RetroCounts
    uptime_s: float
    deadline_ms: float
    max_events: Count


class LayerLine(Provider, kw_only=True):
    """A layer in the list.

    Attributes:
        model_loaded: whether it has loaded a model, even if it is not called.
        enabled: whether it is called.
        models: kind of event -> version of its model.
    """

    layer: str
    model_loaded: bool
    enabled: bool
    models: dict[str, str]


class LayerList(Struct, kw_only=True):
    """All layers."""

    layers: list[LayerLine]


class KindTest(Struct, kw_only=True):
    """Result of the load check of one kind's model; the loaded model is discarded.

    Attributes:
        ok: whether the model would serve.
        code: why it would not, "" if it would.
        message: the code as a sentence.
    """

    ok: bool
    version: str
    code: str
    message: str
    elapsed_ms: float


class LayerTest(Struct, kw_only=True):
    """Results of the load checks of a layer.

    Attributes:
        code: why the checks did not end, "" if they did.
        kinds: kind of event -> its load check.
    """

    layer: str
    ok: bool
    code: str
    message: str
    elapsed_ms: float
    kinds: dict[str, KindTest]


class SwitchedLayer(Struct, kw_only=True):
    """The switches of a layer.

    Attributes:
        enabled: whether it is called.
        disabled_by_environment: whether only a restart without the variable can enable it.
        resets: how often an operator cleared its failures.
    """

    layer: str
    enabled: bool
    disabled_by_environment: bool
    resets: Count
