"""Hot reload: the slot of a layer swaps proven models while it serves, and falls back without one.

A slot starts empty and in fallback, so constructing one cannot fail. `refresh` is called
periodically in a thread beside the scoring: it resolves the releases that may serve, loads what is
missing, and replaces one reference. Every call of `score` names a release, so that a verdict never
mixes two releases. A failed load never removes a model that serves. When a model raises on
some rows of a batch, those rows get no opinion and the others keep theirs.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

from ensemble.errors import LayerCrashed
from ensemble.events import EventBatch, Kind
from ensemble.runtime.bad_rows import abstentions, score_isolating_bad_rows
from ensemble.runtime.model_state import (
    KindState,
    LoadCheck,
    LoadedModel,
    LoadedRelease,
    LoadFailure,
    LoadResult,
    SlotEvent,
    SlotState,
    failure_of,
)
from ensemble.runtime.resolver import ResolvedReleases
from ensemble.runtime.slot_events import load_events
from ensemble.verdicts import LayerScores, LayerStatus

__all__ = ["ANY_RELEASE", "LayerSlot", "ModelSource"]

# Serve writes the extra fields of its logger as JSON. Without Ray it is an ordinary logger.
logger = logging.getLogger("ray.serve")
ANY_RELEASE = ""  # the newest loaded release, for a caller that names none
NOT_OF_THIS_KIND = "has no opinion on events of this kind"
NOT_IN_RELEASE = "the release was published without this layer"
# a release that calls named within this time stays: a canary may return to it
IN_USE_WITHIN_S = 60.0
# RELIABILITY F1: a failed load is retried after 1, 2, 4 .. 30 s until something changes
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
# batches in a row that a model could not score at all, before the process itself is checked
SUSPICIOUS_FAILURES = 20


class ModelSource(Protocol):
    """Source of a slot's models. Each call may block for long, and may raise."""

    def resolve(self) -> ResolvedReleases:
        """Resolve the releases that may serve now."""
        ...

    def fingerprint(self, resolved: ResolvedReleases) -> Hashable:
        """Compute a value that changes if a load of `resolved` could give another result; cheap."""
        ...

    def load(
        self,
        resolved: ResolvedReleases,
        loaded: Sequence[LoadedRelease],
        requested: frozenset[str],
    ) -> LoadResult:
        """Load the wanted release and its fallbacks, and reuse the models of `loaded`.

        `resolved` is what the fingerprint was computed of. `requested` releases are loaded too.
        """
        ...

    def check_load(self) -> Mapping[Kind, LoadCheck]:
        """Load the wanted release from scratch, and discard it."""
        ...


class LayerSlot:
    """One layer with its models, or a fallback without them; `score` never raises.

    Args:
        layer: its name.
        kinds: kinds of event that it rates.
        source: of its models.
        fallback_score: shown while there is no model; has weight 0.
        on_event: receives each `SlotEvent`; must not raise.
        clock: monotonic seconds; paces the retries.
        now: seconds since 1970; the start of each state.
    """

    def __init__(
        self,
        layer: str,
        kinds: Sequence[Kind],
        source: ModelSource,
        *,
        fallback_score: float,
        on_event: Callable[[SlotEvent], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.layer, self._kinds, self._source = layer, tuple(kinds), source
        self._fallback_score = fallback_score
        self._on_event, self._clock, self._now = on_event, clock, now
        self._loaded: tuple[LoadedRelease, ...] = ()  # newest first; replaced, never changed
        self._result = LoadResult("", ())
        self._failure: LoadFailure | None = None  # of a refresh that loaded nothing at all
        # releases that callers named and that are not loaded; and those already searched for
        # since the files changed last
        self._requested: frozenset[str] = frozenset()
        self._attempted: frozenset[str] = frozenset()
        self._used_at: dict[str, float] = {}
        self._fingerprint: Hashable = None
        self._retry_at, self._retry_s = 0.0, FIRST_RETRY_S
        # tickets: an abandoned refresh that ends late must not undo a later one
        self._last_ticket, self._finished_ticket, self._loaded_ticket = 0, 0, 0
        self._failures_in_a_row: Counter[Kind] = Counter()
        self._since: dict[Kind, tuple[LayerStatus, str, float]] = {}
        self._lock = threading.Lock()
        self.is_disabled = False  # by an operator: nothing is loaded
        self.wake: Callable[[], None] = lambda: None  # set by the poller: requests a refresh soon

    @property
    def loaded(self) -> tuple[LoadedRelease, ...]:
        """The loaded releases, newest first."""
        return self._loaded

    def refresh(self) -> None:
        """Load what is new or missing; an error is reported by `state`, not raised."""
        if self.is_disabled:
            return
        with self._lock:
            self._last_ticket += 1
            ticket, requested = self._last_ticket, self._requested
        resolved = self._resolve()
        fingerprint = resolved if isinstance(resolved, LoadFailure) else resolved[1]
        if not self._has_reason(fingerprint, requested):
            return
        if fingerprint != self._fingerprint:
            self._retry_s = FIRST_RETRY_S
            self._on_event(SlotEvent("attempting_load", self.layer))
        outcome: LoadResult | LoadFailure
        if isinstance(resolved, LoadFailure):
            outcome = resolved
        else:
            outcome = self._load(resolved[0], requested)
        self._finish(ticket, outcome, fingerprint, requested)

    def abandon_load(self, error: Exception) -> None:
        """Count the running refresh as failed by `error`, because it exceeded its time limit.

        If it ends later, its result is used unless something newer was loaded.
        """
        with self._lock:
            self._last_ticket += 1
            ticket = self._last_ticket
        self._finish(ticket, failure_of(error), self._fingerprint, frozenset())

    def reset(self) -> None:
        """Forget earlier failures: the next refresh loads even if no file changed."""
        with self._lock:
            self._fingerprint, self._retry_at, self._retry_s = None, 0.0, FIRST_RETRY_S
            self._failures_in_a_row = Counter()
        self.wake()

    def check_load(self) -> Mapping[Kind, LoadCheck]:
        """Load the wanted release from scratch beside the serving one; changes nothing."""
        try:
            return self._source.check_load()
        except Exception as error:  # noqa: BLE001  # the error is the result
            return dict.fromkeys(self._kinds, LoadCheck.failed(failure_of(error)))

    def score(self, batch: EventBatch, release: str, *, explain: bool = False) -> LayerScores:
        """Score a batch by the models of `release`, or abstain.

        Args:
            batch: n events of one kind.
            release: name of the release that the caller fuses with, or `ANY_RELEASE`.
            explain: also return the details behind the scores.
        """
        loaded = self.get_release(release)
        if loaded is None:
            return self._abstain(*self.absence, batch)
        model = loaded.models.get(batch.kind)
        if model is not None:
            return self._score_with(model, loaded.name, batch, explain=explain)
        failure = loaded.failures.get(batch.kind)
        if failure is not None:
            return self._abstain(LayerStatus.FALLBACK, failure.code, batch)
        reason = NOT_IN_RELEASE if batch.kind in loaded.unnamed else NOT_OF_THIS_KIND
        return LayerScores.silent(self.layer, LayerStatus.NOT_APPLICABLE, len(batch), reason)

    def get_release(self, release: str) -> LoadedRelease | None:
        """Return the loaded part of `release`, or of the newest for `ANY_RELEASE`.

        If it is not loaded, return None and request it.
        """
        loaded = self._find(release)
        if loaded is not None:
            self._used_at[loaded.name] = self._clock()
        return loaded

    def record_failure(self, batch: EventBatch, error: Exception) -> None:
        """Log and count that the model could score nothing of a batch.

        To be called in the `except` block.
        """
        self._failures_in_a_row[batch.kind] += 1
        if self._failures_in_a_row[batch.kind] == 1:  # logged once, counted each time
            about = {"layer": self.layer, "kind": str(batch.kind), "events": len(batch)}
            logger.error(
                "layer_scoring_failed",
                exc_info=error,
                extra={"event": "layer_scoring_failed", **about},
            )
        self._report_failed_rows(batch, len(batch), type(error).__name__)

    @property
    def absence(self) -> tuple[LayerStatus, str]:
        """Status and reason for a release of which nothing is loaded."""
        if self._failure is not None and not self._loaded:
            return LayerStatus.FALLBACK, self._failure.code
        return LayerStatus.WARMING_UP, "the model is being loaded"

    def state(self, release: str = ANY_RELEASE) -> SlotState:
        """Report the state for `release`, or for the newest; request `release` if it is missing."""
        loaded = self._find(release)
        models = {id(m.model): m for one in self._loaded for m in one.models.values()}
        return SlotState(
            layer=self.layer,
            release=loaded.name if loaded else "",
            kinds=self._kind_states(loaded),
            wanted=self._result.wanted,
            holds={one.name: one.complete_kinds for one in self._loaded},
            size_bytes=sum(model.size_bytes for model in models.values()),
            files_present=self._failure is None and not self._result.problems,
        )

    def check_health(self) -> None:
        """Raise if only a restart of the process would help; a missing model does not (P38).

        The events may be the cause of many failures in a row. So the model scores its golden events
        again, which it could score when it was loaded. If it cannot, something below it has failed,
        e.g. the context of the GPU.
        """
        for loaded in self._loaded[:1]:
            for kind, model in loaded.models.items():
                if model.probe is not None and self._failures_in_a_row[kind] >= SUSPICIOUS_FAILURES:
                    model.model.score(model.probe)

    def _find(self, release: str) -> LoadedRelease | None:
        found = next((one for one in self._loaded if release in (one.name, ANY_RELEASE)), None)
        if found is None:
            if release != ANY_RELEASE and release not in self._requested:
                self._requested |= {release}
            self.wake()
        return found

    def _score_with(
        self, model: LoadedModel, release: str, batch: EventBatch, *, explain: bool
    ) -> LayerScores:
        try:
            scored, bad_rows = score_isolating_bad_rows(
                model.model, batch, explain=explain, shown=self._fallback_score
            )
        except Exception as error:  # noqa: BLE001  # an abstention: it must not stop the others
            self.record_failure(batch, error)
            return self._abstain(LayerStatus.FALLBACK, LayerCrashed.code, batch)
        self._failures_in_a_row[batch.kind] = 0
        if bad_rows:
            self._report_failed_rows(batch, len(bad_rows), "poisoned rows")
        return LayerScores(
            self.layer,
            LayerStatus.STALE if scored.abstains else model.status,
            model.version,
            release,
            scored.scores,
            scored.abstains,
            scored.notes,
            scored.details,
            abstentions(scored, bad_rows),
            scored.flags,
        )

    def _report_failed_rows(self, batch: EventBatch, events: int, error_type: str) -> None:
        fields = {"events": events, "error_type": error_type}
        self._on_event(SlotEvent("scoring_failed", self.layer, batch.kind, fields))

    def _abstain(self, status: LayerStatus, reason: str, batch: EventBatch) -> LayerScores:
        if status is LayerStatus.FALLBACK:
            fields = {"events": len(batch), "reason": reason}
            self._on_event(SlotEvent("fallback_used", self.layer, batch.kind, fields))
        return LayerScores.silent(
            self.layer, status, len(batch), reason, score=self._fallback_score
        )

    def _resolve(self) -> tuple[ResolvedReleases, Hashable] | LoadFailure:
        """Resolve the releases that may serve, and fingerprint their files."""
        try:
            resolved = self._source.resolve()
            return resolved, self._source.fingerprint(resolved)
        except Exception as error:  # noqa: BLE001  # reported like a failed load
            return failure_of(error)

    def _load(
        self, resolved: ResolvedReleases, requested: frozenset[str]
    ) -> LoadResult | LoadFailure:
        try:
            return self._source.load(resolved, self._in_use(), requested)
        # the layer continues with the models that it has, and reports the error
        except Exception as error:  # noqa: BLE001
            return failure_of(error)

    def _has_reason(self, fingerprint: Hashable, requested: frozenset[str]) -> bool:
        missing = requested - self._attempted - {one.name for one in self._loaded}
        if self._finished_ticket == 0 or fingerprint != self._fingerprint or missing:
            return True
        has_problem = self._failure is not None or bool(self._result.problems)
        return has_problem and self._clock() >= self._retry_at

    def _in_use(self) -> tuple[LoadedRelease, ...]:
        """The newest loaded release, and those that calls named within `IN_USE_WITHIN_S`."""
        since = self._clock() - IN_USE_WITHIN_S
        return tuple(
            one
            for one in self._loaded
            if one is self._loaded[0] or self._used_at.get(one.name, -math.inf) >= since
        )

    def _finish(
        self,
        ticket: int,
        outcome: LoadResult | LoadFailure,
        fingerprint: Hashable,
        requested: frozenset[str],
    ) -> None:
        """Apply the outcome of a refresh, unless a newer one has been applied, and report it."""
        is_loaded = isinstance(outcome, LoadResult)
        with self._lock:
            if ticket < (self._loaded_ticket if is_loaded else self._finished_ticket):
                return
            before = self._loaded, self._problems()
            self._finished_ticket = max(ticket, self._finished_ticket)
            if isinstance(outcome, LoadResult):
                self._loaded_ticket, self._loaded = ticket, self._merged_with(outcome)
                self._result, self._failure = outcome, None
            else:
                self._failure = outcome
            is_unchanged = fingerprint == self._fingerprint
            self._attempted = requested | (self._attempted if is_unchanged else frozenset())
            self._fingerprint = fingerprint
            self._requested -= self._attempted
            if self._failure or self._result.problems:
                self._retry_at = self._clock() + self._retry_s
                self._retry_s = min(self._retry_s * 2, LONGEST_RETRY_S)
            else:
                self._retry_s = FIRST_RETRY_S
            self._date_states()
        for event in load_events(self.layer, before, (self._loaded, self._problems())):
            self._on_event(event)

    def _merged_with(self, result: LoadResult) -> tuple[LoadedRelease, ...]:
        """Combine the releases of `result` with those in use that it does not contain."""
        new = [release.merged_with(self._loaded) for release in result.releases]
        names = {release.name for release in new}
        return (*new, *(old for old in self._in_use() if old.name not in names))

    def _problems(self) -> Mapping[Kind, LoadFailure]:
        if self._failure is None:
            return self._result.problems
        return dict.fromkeys(self._kinds, self._failure)

    def _kind_states(self, loaded: LoadedRelease | None) -> dict[Kind, KindState]:
        found: dict[Kind, tuple[LayerStatus, str, str]]
        if loaded is None:
            status, reason = self.absence
            found = dict.fromkeys(self._kinds, (status, "", reason))
        else:
            found = {
                kind: (model.status, model.version, "") for kind, model in loaded.models.items()
            }
            for kind, failure in loaded.failures.items():
                found[kind] = (LayerStatus.FALLBACK, "", failure.code)
            for kind in loaded.unnamed - found.keys():
                found[kind] = (LayerStatus.NOT_APPLICABLE, "", NOT_IN_RELEASE)
        problems = self._problems()
        states = {}
        for kind, (status, version, reason) in found.items():
            known = self._since.get(kind)
            since = known[2] if known and known[:2] == (status, version) else 0.0
            states[kind] = KindState(status, version, reason, since, problems.get(kind))
        return states

    def _date_states(self) -> None:
        for kind, state in self._kind_states(self._loaded[0] if self._loaded else None).items():
            if self._since.get(kind, ())[:2] != (state.status, state.version):
                self._since[kind] = (state.status, state.version, self._now())
