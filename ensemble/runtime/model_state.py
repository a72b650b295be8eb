"""Values of a slot: loaded models and releases, load failures, and the state of a layer.

A loader makes them, a slot holds them, and the ingress reads them from every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from ensemble.errors import ArtifactError
from ensemble.events import EventBatch, Kind
from ensemble.model import Model
from ensemble.verdicts import LayerStatus

__all__ = [
    "KindState",
    "LoadCheck",
    "LoadFailure",
    "LoadResult",
    "LoadedModel",
    "LoadedRelease",
    "SlotEvent",
    "SlotState",
    "failure_of",
]


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Reason why a model could not be loaded.

    Attributes:
        code: stable; clients, metrics and the runbook use it as a key.
        message: a sentence for the log.
        cause: likely cause: files, resources, dependencies or configuration (S1-26).
        error_type: class name of the exception.
        what: the artifact concerned, "" for none.
    """

    code: str
    message: str
    cause: str = "files"
    error_type: str = ""
    what: str = ""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that gave its golden answers.

    Attributes:
        version: serial versions of its bundles.
        status: `live`, or `last_good` if it was loaded in place of a newer one that could not be
            loaded.
        bundles: the bundles it was built from, by name and digest; equal bundles are the same
            model.
        size_bytes: of its files.
        probe: events that it scored when it was loaded; None if there are none.
        facts: fields of its log event, e.g. the device.
    """

    model: Model
    version: str
    status: LayerStatus = LayerStatus.LIVE
    bundles: tuple[str, ...] = ()
    size_bytes: int = 0
    probe: EventBatch | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadedRelease:
    """One layer's part of a release: a model for each kind of event, or the reason for none.

    Attributes:
        name: of the release, `<tenant>/<serial>`, "" for none.
        models: kind -> proven model.
        failures: kind -> reason for no model; the layer does not rate a kind that is in neither
            mapping.
        unnamed: kinds for which the release was published without a model. Such a kind is not in
            `failures` either if the layer is optional.
    """

    name: str
    models: Mapping[Kind, LoadedModel] = field(default_factory=dict)
    failures: Mapping[Kind, LoadFailure] = field(default_factory=dict)
    unnamed: frozenset[Kind] = frozenset()

    @property
    def complete_kinds(self) -> frozenset[Kind]:
        """Kinds for which every model that the release names is loaded."""
        return frozenset(self.models) | self.unnamed

    @property
    def is_complete(self) -> bool:
        """Whether every model that the release names is loaded."""
        return self.failures.keys() <= self.unnamed

    def merged_with(self, before: Sequence[LoadedRelease]) -> LoadedRelease:
        """Add the models that an earlier load had of this release.

        Releases never change, so a later load that finds less has lost nothing.
        """
        known = next((old.models for old in before if old.name == self.name), {})
        models = {**known, **self.models}
        return replace(
            self,
            models=models,
            failures={kind: why for kind, why in self.failures.items() if kind not in models},
        )


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one load produced.

    Attributes:
        wanted: name of the release that the pointer names, "" if unknown.
        releases: the wanted one first if any of it could be loaded, then its fallbacks.
        problems: kind -> what is wrong with the wanted release, also while a model in memory
            continues to serve.
    """

    wanted: str
    releases: tuple[LoadedRelease, ...]
    problems: Mapping[Kind, LoadFailure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KindState:
    """State of a slot for one kind of event.

    Attributes:
        status: of the layer for this kind.
        version: of the model that serves, "" for none.
        reason: why the status is not `live`; "" when it is.
        since: when this status began, seconds since 1970; 0.0 if unknown.
        problem: what went wrong with its last load, also while a model serves; None if nothing
            did.
    """

    status: LayerStatus
    version: str = ""
    reason: str = ""
    since: float = 0.0
    problem: LoadFailure | None = None


@dataclass(frozen=True, slots=True)
class SlotState:
    """State of a slot, as operators see it.

    Attributes:
        layer: name of its layer.
        release: the release that `kinds` is about, "" for none.
        kinds: kind of event -> its state.
        wanted: name of the release that the pointer names, as far as this slot knows.
        holds: release that it tried to load -> its complete kinds.
        size_bytes: of the loaded models.
        files_present: whether all files that the wanted release names were there and intact at
            the last poll.
    """

    layer: str
    release: str
    kinds: Mapping[Kind, KindState]
    wanted: str = ""
    holds: Mapping[str, frozenset[Kind]] = field(default_factory=dict)
    size_bytes: int = 0
    files_present: bool = True


@dataclass(frozen=True, slots=True)
class SlotEvent:
    """An action or failure of a slot, for the log and the metrics.

    Attributes:
        what: `attempting_load`, `loaded`, `files_missing`, `load_failed`, `fallback_active`,
            `scoring_failed`, `fallback_used`.
        layer: name of the slot's layer.
        kind: of event, None if it concerns all of them.
        fields: further fields of the log event.
    """

    what: str
    layer: str
    kind: Kind | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadCheck:
    """Result of loading one kind's model from scratch and discarding it.

    Attributes:
        ok: whether it would serve.
        version: of the model, "" for none.
        code: why it would not serve, "" if it would.
        message: the same as a sentence.
        elapsed_ms: duration of the load.
    """

    ok: bool
    version: str
    code: str
    message: str
    elapsed_ms: float

    @classmethod
    def failed(cls, why: LoadFailure, elapsed_ms: float = 0.0) -> Self:
        """Make the result of a load that failed."""
        return cls(ok=False, version="", code=why.code, message=why.message, elapsed_ms=elapsed_ms)


def failure_of(error: Exception) -> LoadFailure:
    """Describe an error of a load by a stable code and a sentence."""
    kind = error if isinstance(error, ArtifactError) else ArtifactError
    name = type(error).__name__
    what = str(getattr(error, "what", "") or getattr(error, "file", ""))
    return LoadFailure(
        kind.code,
        str(error) or name,
        "resources" if isinstance(error, MemoryError) else kind.cause,
        name,
        what,
    )
