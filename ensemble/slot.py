"""A slot keeps one layer answering: with proven models where it has them, with a fallback where it has not.

A slot starts empty and in fallback, so that making one cannot fail. It loads beside the scoring, in a thread of its own: pointer,
release, bundles, each proven before a byte is decoded; then the model; then its golden vectors; then one reference is swapped.
Every call names the release it wants. A slot keeps the two newest it loaded, looks again for one it does not have, a few seconds
after the last look, and abstains meanwhile: an answer is never a mix of two releases, and a failed load is not for ever.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ensemble.errors import ArtifactError, LayerCrashed
from ensemble.events import EventBatch, Kind
from ensemble.layers.model import Model
from ensemble.verdicts import LayerScores, LayerStatus

__all__ = ["ANY_RELEASE", "HeldModel", "HeldRelease", "KindState", "LayerSlot", "LoadFailure", "SlotEvent", "SlotState", "failure_of"]

logger = logging.getLogger("ray.serve")  # Serve's logger carries our fields as JSON; without Ray it is a plain one
ANY_RELEASE = ""  # what a caller without a release of its own asks for: the newest at hand
LOOK_AGAIN_AFTER_S = 5.0  # RELIABILITY P7: live within 10 s of the repair
RELEASES_KEPT = 2  # one serves while the next one replaces it


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A proven model and the version it was published as."""

    model: Model
    version: str


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """Why a model is not there: a stable code, a sentence for the log, and where to look first (S1-26)."""

    code: str
    message: str
    cause: str = "files"


@dataclass(frozen=True, slots=True)
class HeldRelease:
    """What a slot has of one release: for each kind of event a model, or why not.

    Attributes:
        name: of the release, `<tenant>/<serial>`, "" for none.
        models: kind -> proven model.
        failures: kind -> why there is none; a kind in neither is none of this layer's business.
    """

    name: str
    models: Mapping[Kind, HeldModel] = field(default_factory=dict)
    failures: Mapping[Kind, LoadFailure] = field(default_factory=dict)

    def kept_whole(self, before: Sequence[HeldRelease]) -> HeldRelease:
        """This release with what an earlier look had of it: releases never change, so a second look that finds less lost nothing."""
        known = next((old.models for old in before if old.name == self.name), {})
        models = {**known, **self.models}
        return HeldRelease(self.name, models, {kind: why for kind, why in self.failures.items() if kind not in models})


@dataclass(frozen=True, slots=True)
class KindState:
    """How a slot stands with one kind of event.

    Attributes:
        status: of the layer for this kind.
        version: of the model that serves, "" where none does.
        reason: why the status is not `live`; "" when it is.
        since: when this status began, seconds since 1970; 0.0 where nobody knows.
        trouble: what went wrong with the last load of it, also while a model serves; None where nothing did.
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
        release: name of the newest release it holds, "" for none.
        kinds: kind of event -> how it stands.
        size_bytes: of the models it holds.
        files_present: whether everything the wanted release names was there at the last look.
    """

    layer: str
    release: str
    kinds: Mapping[Kind, KindState]
    size_bytes: int = 0
    files_present: bool = True


@dataclass(frozen=True, slots=True)
class SlotEvent:
    """Something a slot did that its operators want to hear of, once.

    Attributes:
        what: `attempting_load`, `loaded`, `files_missing`, `load_failed`, `fallback_active`, `scoring_failed`, `fallback_used`.
        layer: whose slot.
        kind: of event, None where it is about all of them.
        fields: what the log line carries beside these.
    """

    what: str
    layer: str
    kind: Kind | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


class LayerSlot:
    """One layer, answering whatever happens to its models.

    Args:
        layer: its name.
        load: what could be had of the current release. May raise; runs in a thread.
        fallback_score: shown while there is no model; weighs nothing.
        clock: seconds that only rise; paces the looking again.
    """

    def __init__(
        self, layer: str, load: Callable[[], HeldRelease], *, fallback_score: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._layer, self._load, self._fallback_score, self._clock = layer, load, fallback_score, clock
        self._held: tuple[HeldRelease, ...] = ()  # newest first; replaced whole, never changed
        self._failed: LoadFailure | None = None
        self._looked_at = -math.inf
        self._is_loading = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to load the current release; returns at once."""
        self._load_beside()

    def load(self) -> None:
        """Load the current release and wait for it; a failure is kept and told by `state`, never raised."""
        with self._lock:
            self._is_loading = True
        self._load_and_swap()

    def score(self, batch: EventBatch, release: str, *, explain: bool = False) -> LayerScores:
        """This layer's opinion, by the models of `release`; an abstention where it has none.

        Args:
            batch: n events of one kind.
            release: name of the release that the caller fuses with, or `ANY_RELEASE`.
            explain: also say what moved the scores.
        """
        held = next((held for held in self._held if release in (held.name, ANY_RELEASE)), None)
        if held is None or held.failures:
            self._load_beside()
        if held is None:
            return self._silent(*self._empty_status(), len(batch))
        model = held.models.get(batch.kind)
        if model is None:
            failure = held.failures.get(batch.kind)
            if failure is None:
                return LayerScores.silent(self._layer, LayerStatus.NOT_APPLICABLE, len(batch), "has no opinion on events of this kind")
            return self._silent(LayerStatus.FALLBACK, failure.code, len(batch))
        try:
            said = model.model.score(batch, explain=explain)
            if said.scores.shape != (len(batch),):
                raise ValueError(f"{said.scores.shape} scores for {len(batch)} events")  # noqa: TRY301  # told and counted below
            status = LayerStatus.STALE if said.abstains else LayerStatus.LIVE
            return LayerScores(self._layer, status, model.version, held.name, said.scores, said.abstains, said.notes, said.details)
        except Exception:  # here a layer becomes an abstention: its bug must not stop the others
            logger.exception("layer_scoring_failed", extra={"layer": self._layer, "kind": str(batch.kind), "events": len(batch)})
            return self._silent(LayerStatus.FALLBACK, LayerCrashed.code, len(batch))

    def state(self, wanted: str = ANY_RELEASE) -> SlotState:
        """Status of each kind this layer speaks of, for the newest release it holds; looks for `wanted` if it holds another."""
        if not self._held or (wanted != ANY_RELEASE and all(held.name != wanted for held in self._held)):
            self._load_beside()
        if not self._held:
            status, reason = self._empty_status()
            return SlotState(self._layer, "", dict.fromkeys(Kind, KindState(status, reason=reason)))
        held = self._held[0]
        spoken = {kind: KindState(LayerStatus.LIVE, model.version) for kind, model in held.models.items()}
        failed = {kind: KindState(LayerStatus.FALLBACK, reason=failure.code, trouble=failure) for kind, failure in held.failures.items()}
        return SlotState(self._layer, held.name, {**spoken, **failed})

    def _empty_status(self) -> tuple[LayerStatus, str]:
        if self._failed is not None:
            return LayerStatus.FALLBACK, self._failed.code
        return LayerStatus.WARMING_UP, "the model is being loaded"

    def _silent(self, status: LayerStatus, reason: str, size: int) -> LayerScores:
        return LayerScores.silent(self._layer, status, size, reason, score=self._fallback_score)

    def _load_beside(self) -> None:
        """Look for the current release, unless somebody looks now or did a moment ago."""
        with self._lock:
            if self._is_loading or self._clock() < self._looked_at + LOOK_AGAIN_AFTER_S:
                return
            self._is_loading = True
        threading.Thread(target=self._load_and_swap, name=f"load-{self._layer}", daemon=True).start()

    def _load_and_swap(self) -> None:
        try:
            held = self._load()
        except Exception as error:  # noqa: BLE001  # whatever a load does, the layer abstains and says so
            self._failed = failure_of(error)
            self._log_failure(self._failed, "")
        else:
            with self._lock:
                held = held.kept_whole(self._held)
                others = tuple(old for old in self._held if old.name != held.name)
                self._held, self._failed = (held, *others)[:RELEASES_KEPT], None
            for kind, failure in held.failures.items():
                self._log_failure(failure, kind)
            for kind, model in held.models.items():
                logger.info("layer_loaded", extra={"layer": self._layer, "kind": kind, "version": model.version, "release": held.name})
        finally:
            with self._lock:
                self._looked_at, self._is_loading = self._clock(), False

    def _log_failure(self, failure: LoadFailure, kind: str) -> None:
        logger.error("layer_load_failed", extra={"layer": self._layer, "kind": kind, "code": failure.code, "error": failure.message})


def failure_of(error: Exception) -> LoadFailure:
    """An error of a load as a stable code and a sentence."""
    kind = error if isinstance(error, ArtifactError) else ArtifactError
    return LoadFailure(kind.code, str(error) or type(error).__name__, kind.cause)
