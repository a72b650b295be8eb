"""What a slot holds and says: models of releases, why one is missing, and how a layer stands.

Values only. A slot keeps them, a loader makes them, and the ingress reads them from every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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
    """Why a model is not there.

    Attributes:
        code: stable; clients, metrics and the runbook key on it.
        message: a sentence for the log.
        cause: where to look first: files, resources, dependencies or configuration (S1-26).
        error_type: of what was raised.
        what: the artifact it is about, "" where it is about none.
    """

    code: str
    message: str
    cause: str = "files"
    error_type: str = ""
    what: str = ""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A proven model.

    Attributes:
        version: it was published as.
        status: `live`, or `last_good` when it was loaded in the place of a newer one that could
            not be had.
        bundles: what it was built from, by name and digest: equal bundles are the same model.
        size_bytes: of its files.
        probe: events it has scored when it was loaded; None where it rates none.
        facts: what its log line says of it, e.g. the device.
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
    """What a slot has of one release: for each kind of event a model, or why not.

    Attributes:
        name: of the release, `<tenant>/<serial>`, "" for none.
        models: kind -> proven model.
        failures: kind -> why there is none; a kind in neither is none of this layer's business.
        unnamed: kinds for which the release names no model: it was published so, and lacks
            nothing. One that is not in `failures`
            either belongs to a layer that a release may do without.
    """

    name: str
    models: Mapping[Kind, LoadedModel] = field(default_factory=dict)
    failures: Mapping[Kind, LoadFailure] = field(default_factory=dict)
    unnamed: frozenset[Kind] = frozenset()

    @property
    def has(self) -> frozenset[Kind]:
        """Kinds of which it lacks nothing."""
        return frozenset(self.models) | self.unnamed

    @property
    def is_complete(self) -> bool:
        """Whether everything that the release names was had."""
        return self.failures.keys() <= self.unnamed

    def merged_with(self, before: Sequence[LoadedRelease]) -> LoadedRelease:
        """This release with what an earlier look had of it.

        Releases never change, so a second look that finds less lost nothing.
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
    """What one look brought.

    Attributes:
        wanted: name of the release that the pointer names, "" where nobody knows.
        releases: the wanted one first if anything of it could be had, then those that stand in
            its place.
        trouble: kind -> what is wrong with the wanted release, also while a model in memory
            goes on.
    """

    wanted: str
    releases: tuple[LoadedRelease, ...]
    trouble: Mapping[Kind, LoadFailure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KindState:
    """How a slot stands with one kind of event.

    Attributes:
        status: of the layer for this kind.
        version: of the model that serves, "" where none does.
        reason: why the status is not `live`; "" when it is.
        since: when this status began, seconds since 1970; 0.0 where nobody knows.
        trouble: what went wrong with the last load of it, also while a model serves; None where
            nothing did.
    """

    status: LayerStatus
    version: str = ""
    reason: str = ""
    since: float = 0.0
    trouble: LoadFailure | None = None


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot as its operators see it.

    Attributes:
        layer: its name.
        release: the one that `kinds` speaks of, "" for none.
        kinds: kind of event -> how it stands.
        wanted: name of the release that the pointer names, as far as this slot knows.
        holds: release it tried to load -> kinds of which it lacks nothing.
        size_bytes: of the models it holds.
        files_present: whether everything the wanted release names was there, and whole, at the
            last look.
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
    """Something a slot did that its operators want to hear of.

    Attributes:
        what: `attempting_load`, `loaded`, `files_missing`, `load_failed`, `fallback_active`,
            `scoring_failed`, `fallback_used`.
        layer: whose slot.
        kind: of event, None where it is about all of them.
        fields: what the log line carries beside these. `is_news` is False for what was told
            before: to be counted, not logged.
    """

    what: str
    layer: str
    kind: Kind | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadCheck:
    """How loading one kind's model from scratch went; nothing of it is kept.

    Attributes:
        ok: whether it would serve.
        version: of the model, "" where there is none.
        code: why not, "" where it would.
        message: the same as a sentence.
        elapsed_ms: of the load.
    """

    ok: bool
    version: str
    code: str
    message: str
    elapsed_ms: float


def failure_of(error: Exception) -> LoadFailure:
    """An error of a load as a stable code and a sentence."""
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
