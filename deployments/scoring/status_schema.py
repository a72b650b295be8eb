"""The answers that are no verdict: what this service is, how the ensemble stands, what a switch did. Read by mypy and by the contract.

The code that makes them makes plain dictionaries; these types say which, so that the OpenAPI
document and the answers cannot part ways.
"""

from __future__ import annotations

from typing import Annotated, TypedDict

from msgspec import Meta

from deployments.scoring.retro_spool import RetroCounts
from ensemble.guard import BreakerState
from ensemble.rollout.canary import RolloutView
from ensemble.rollout.shadow import Agreement
from ensemble.verdicts import LayerStatus, SystemStatus

__all__ = [
    "Health",
    "LayerLine",
    "LayerList",
    "LayerTest",
    "Live",
    "Ready",
    "Service",
    "Status",
    "SwitchedLayer",
    "Trouble",
]

Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0)]


class Limits(TypedDict):
    """What one request may carry.

    Attributes:
        max_events: events, or flows, in one batch.
        max_body_bytes: bytes of a body.
        deadline_ms: a layer that has not answered by then is silent.
    """

    max_events: Count
    max_body_bytes: Count
    deadline_ms: float


class Service(TypedDict):
    """What this service is.

    Attributes:
        version: of Axon.
        model_version: name of the release that serves, "" for none.
        models: models that answer now, each with its version.
        routes: every route, with its method.
    """

    service: str
    version: str
    about: str
    model_version: str
    models: list[str]
    limits: Limits
    routes: list[str]


class Provider(TypedDict):
    """A layer in one line: its first kind of event that is silent, or else its first kind.

    Attributes:
        status: how it stands.
        version: of its model, "" where none serves.
        reason: why it is silent, "" where it speaks.
    """

    status: LayerStatus
    version: str
    reason: str


class Health(TypedDict):
    """Whether the ensemble is whole.

    Attributes:
        status: `degraded` where any layer is silent.
        ml_status: counted over the layers that learn, for flows.
        coverage: share of the validated evidence on flows that speaks.
        models_loaded: how many `available_models` there are.
        available_models: models that answer now, each as `name@version`.
        providers: layer -> how it stands.
    """

    status: str
    ml_status: SystemStatus
    coverage: Share
    models_loaded: Count
    available_models: list[str]
    providers: dict[str, Provider]


class Live(TypedDict):
    """The process answers."""

    live: bool


class Ready(TypedDict):
    """Whether it can score at all; degraded is ready."""

    ready: bool


class Trouble(TypedDict):
    """What is wrong.

    Attributes:
        code: stable; the runbook has it.
        cause: where to look first: files, resources, dependencies or configuration; "" where it
            is none of these.
        meaning: the same as a sentence.
    """

    code: str
    cause: str
    meaning: str


class KindStatus(TypedDict):
    """How a layer stands with one kind of event.

    Attributes:
        since: when this status began, ISO 8601, "" where nobody knows.
        trouble: what went wrong with its model last, also while an older one serves.
    """

    status: LayerStatus
    version: str
    reason: str
    since: str
    trouble: Trouble | None


class BreakerStatus(TypedDict):
    """Whether a layer is asked.

    Attributes:
        since: when it left `closed` or came back there, ISO 8601, "" where nobody knows.
    """

    state: BreakerState
    since: str


class LayerDetail(TypedDict):
    """A layer.

    Attributes:
        device: where it computes, "" where it did not say.
        release: name of the release it answers for, "" for none.
        size_bytes: of its models.
        files_present: whether all that the release names was there at the last look; null where
            it did not say.
        kinds: kind of event -> how it stands.
    """

    layer: str
    device: str
    release: str
    size_bytes: Count
    files_present: bool | None
    breaker: BreakerStatus
    kinds: dict[str, KindStatus]


class ControlsStatus(TypedDict):
    """The switches.

    Attributes:
        disabled: layers that are off.
        disabled_by_environment: of these, those that only a restart without the variable
            switches on.
        resets: layer -> how often its failures were forgotten by hand.
        retreated: promotion -> why its release was left again.
    """

    disabled: list[str]
    disabled_by_environment: list[str]
    resets: dict[str, Count]
    retreated: dict[str, str]


class Status(Health):
    """The ensemble in the long form.

    Attributes:
        coverage_by_kind: kind of event -> share of the validated evidence on it that speaks.
        release: that serves, "" for none.
        rollout: how the bringing-in of the last new release goes; null before the first.
        time: of this view, ISO 8601.
        wanted: release that the pointer names, "" where it cannot be read.
        pointer: `tenant#serial`, "" likewise.
        trouble: what is wrong with pointer, release or fusion; null where nothing is.
        lives_on: tenant whose models answer: the caller's own, its group's, or the generic one.
        challenger: how the release that scores in shadow compares with the one that answers;
            null where none does.
        retro: events that wait for a second look.
    """

    coverage_by_kind: dict[str, Share]
    release: str
    rollout: RolloutView | None
    time: str
    layers: list[LayerDetail]
    controls: ControlsStatus
    version: str
    tenant: str
    wanted: str
    pointer: str
    trouble: Trouble | None
    lives_on: str
    challenger: Agreement | None
    retro: RetroCounts
    uptime_s: float
    deadline_ms: float
    max_events: Count


class LayerLine(Provider):
    """A layer in the list.

    Attributes:
        model_loaded: whether it has a model, asked or not.
        enabled: whether it is asked.
        models: kind of event -> version of its model.
    """

    layer: str
    model_loaded: bool
    enabled: bool
    models: dict[str, str]


class LayerList(TypedDict):
    """All layers."""

    layers: list[LayerLine]


class KindTest(TypedDict):
    """How loading one kind's model went; nothing of it is kept.

    Attributes:
        ok: it would serve.
        code: why not, "" where it would.
        message: the same as a sentence.
    """

    ok: bool
    version: str
    code: str
    message: str
    elapsed_ms: float


class LayerTest(TypedDict):
    """How a test of a layer's initialisation went.

    Attributes:
        code: why it did not end, "" where it did.
        kinds: kind of event -> how its model loaded.
    """

    layer: str
    ok: bool
    code: str
    message: str
    elapsed_ms: float
    kinds: dict[str, KindTest]


class SwitchedLayer(TypedDict):
    """How a layer's switches stand now.

    Attributes:
        enabled: whether it is asked.
        disabled_by_environment: whether only a restart without the variable can enable it.
        resets: how often its failures were forgotten by hand.
    """

    layer: str
    enabled: bool
    disabled_by_environment: bool
    resets: Count
