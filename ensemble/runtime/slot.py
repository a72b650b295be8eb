"""A slot: one layer's models, proven and hot-swapped, with a fallback where there are none.

A slot starts empty and in fallback, so that making one cannot fail. `look` is called again and
again beside the scoring, in a thread:
it asks its source whether anything changed, has loaded what is missing, and swaps one reference.
Every call of `score` names
the release it wants, so an answer is never a mix of two releases. What once serves is never lost to
a load that fails.
A batch on which a model raises is halved until the guilty rows stand alone: they get no opinion,
the others theirs.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

from ensemble.errors import ArtifactMissing, LayerCrashed
from ensemble.events import EventBatch, Kind
from ensemble.runtime.bad_rows import score_isolating_bad_rows
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
from ensemble.verdicts import LayerScores, LayerStatus

__all__ = ["ANY_RELEASE", "LayerSlot", "ModelSource"]

logger = logging.getLogger(
    "ray.serve"
)  # Serve's logger carries our fields as JSON; without Ray it is a plain one
ANY_RELEASE = ""  # what a caller without a release of its own asks for: the newest at hand
NOT_OF_THIS_KIND = "has no opinion on events of this kind"
NOT_IN_RELEASE = "the release was published without this layer"
# a release that calls named within this is kept: they go over step by step, and may step back
ASKED_WITHIN_S = 60.0
FIRST_RETRY_S, LONGEST_RETRY_S = (
    1.0,
    30.0,
)  # RELIABILITY F1: looked at again, ever more seldom, until something changes
# batches in a row that the model could not score at all, before the process itself is doubted
SUSPICIOUS_FAILURES = 20


class ModelSource(Protocol):
    """Where a slot's models come from. Each call may block for long, and may raise."""

    def fingerprint(self) -> Hashable:
        """Something that changes when a load would find anything new; cheap."""
        ...

    def load(self, held: Sequence[LoadedRelease], requested: frozenset[str]) -> LoadResult:
        """What serves now.

        The wanted release, others in its place where it is not whole, and of `held` and `requested`
        what may serve.
        """
        ...

    def trial(self) -> Mapping[Kind, LoadCheck]:
        """Load the wanted release from scratch, and keep nothing of it."""
        ...


class LayerSlot:
    """One layer, answering whatever happens to its models.

    Args:
        layer: its name.
        kinds: of event it may speak of.
        source: where the models come from.
        fallback_score: shown while there is no model; weighs nothing.
        tell: is told what happened, once; must not raise.
        clock: seconds that only rise; paces the retries.
        now: seconds since 1970; says since when a status holds.
    """

    def __init__(
        self,
        layer: str,
        kinds: Sequence[Kind],
        source: ModelSource,
        *,
        fallback_score: float,
        tell: Callable[[SlotEvent], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._layer, self._kinds, self._source, self._fallback_score = (
            layer,
            tuple(kinds),
            source,
            fallback_score,
        )
        self._tell, self._clock, self._now = tell, clock, now
        self._held: tuple[
            LoadedRelease, ...
        ] = ()  # what serves, newest first; replaced whole, never changed
        self._loaded = LoadResult("", ())
        self._failed: LoadFailure | None = None  # nothing at all could be loaded
        self._requested: frozenset[str] = (
            frozenset()
        )  # releases that callers named and it does not hold
        self._tried: frozenset[str] = (
            frozenset()
        )  # of these, those that were looked for since the files changed last
        self._asked_at: dict[str, float] = {}
        self._seen: Hashable = None
        self._try_at, self._retry_s = 0.0, FIRST_RETRY_S
        self._looks, self._looked, self._loads = (
            0,
            0,
            0,
        )  # tickets: a look that was given up and ends late must not undo a later one
        self._failures_in_a_row: Counter[Kind] = Counter()
        self._since: dict[Kind, tuple[LayerStatus, str, float]] = {}
        self._lock = threading.Lock()
        self.is_disabled = False  # an operator's wish: nothing is loaded, and whoever asks is told
        self.wake: Callable[[], None] = lambda: (
            None
        )  # set by whoever calls `look`: somebody waits for one

    @property
    def layer(self) -> str:
        """Its layer's name."""
        return self._layer

    @property
    def held(self) -> tuple[LoadedRelease, ...]:
        """What serves, newest first."""
        return self._held

    def look(self) -> None:
        """Load what is new or missing, if there is reason to.

        Whatever goes wrong is kept and told by `state`, never raised.
        """
        if self.is_disabled:
            return
        with self._lock:
            self._looks += 1
            ticket, requested = self._looks, self._requested
        seen: Hashable = None
        try:
            seen = self._source.fingerprint()
            if not self._has_reason(seen, requested):
                return
            if seen != self._seen:
                self._retry_s = FIRST_RETRY_S
                self._tell(SlotEvent("attempting_load", self._layer))
            loaded = self._source.load(self._in_use(), requested)
        # whatever a load does, the layer goes on with what it has, and says so
        except Exception as error:  # noqa: BLE001
            self._end_of_look(ticket, failure_of(error), seen, requested)
        else:
            self._end_of_look(ticket, loaded, seen, requested)

    def give_up(self, error: Exception) -> None:
        """The look that runs now took too long.

        Nobody waits for it any more. What it brings late is used if nothing newer was loaded.
        """
        with self._lock:
            self._looks += 1
            ticket = self._looks
        self._end_of_look(ticket, failure_of(error), self._seen, frozenset())

    def reset(self) -> None:
        """Forget what failed: the next look loads whatever the files look like."""
        with self._lock:
            self._seen, self._try_at, self._retry_s, self._failures_in_a_row = (
                None,
                0.0,
                FIRST_RETRY_S,
                Counter(),
            )
        self.wake()

    def trial(self) -> Mapping[Kind, LoadCheck]:
        """Load the wanted release from scratch, beside what serves, and say how it went.

        Changes nothing, and never raises.
        """
        try:
            return self._source.trial()
        except Exception as error:  # noqa: BLE001  # how it went is the answer
            why = failure_of(error)
            return {
                kind: LoadCheck(
                    ok=False, version="", code=why.code, message=why.message, elapsed_ms=0.0
                )
                for kind in self._kinds
            }

    def score(self, batch: EventBatch, release: str, *, explain: bool = False) -> LayerScores:
        """This layer's opinion, by the models of `release`; an abstention where it has none.

        Args:
            batch: n events of one kind.
            release: name of the release that the caller fuses with, or `ANY_RELEASE`.
            explain: also say what moved the scores.
        """
        held = self.find(release)
        if held is None:
            return self._silent(*self.absence, batch)
        model = held.models.get(batch.kind)
        if model is None:
            failure = held.failures.get(batch.kind)
            if failure is None:
                reason = NOT_IN_RELEASE if batch.kind in held.unnamed else NOT_OF_THIS_KIND
                return LayerScores.silent(
                    self._layer, LayerStatus.NOT_APPLICABLE, len(batch), reason
                )
            return self._silent(LayerStatus.FALLBACK, failure.code, batch)
        return self._ask(model, held.name, batch, explain=explain)

    def find(self, release: str) -> LoadedRelease | None:
        """What it holds of `release`, or the newest it has for `ANY_RELEASE`.

        None where it has none: it looks for it then.
        """
        held = next((held for held in self._held if release in (held.name, ANY_RELEASE)), None)
        if held is None:
            self._request(release)
        else:
            self._asked_at[held.name] = self._clock()
        return held

    def failed(self, batch: EventBatch, error: Exception) -> None:
        """Its model could answer nothing of a batch.

        Say it, and count it against the process. To be called where the error is caught.
        """
        self._failures_in_a_row[batch.kind] += 1
        if self._failures_in_a_row[batch.kind] == 1:  # once; the counter of the event goes on
            about = {"layer": self._layer, "kind": str(batch.kind), "events": len(batch)}
            logger.error(
                "layer_scoring_failed",
                exc_info=error,
                extra={"event": "layer_scoring_failed", **about},
            )
        self._tell(
            SlotEvent(
                "scoring_failed",
                self._layer,
                batch.kind,
                {"events": len(batch), "error_type": type(error).__name__},
            )
        )

    def _ask(
        self, model: LoadedModel, release: str, batch: EventBatch, *, explain: bool
    ) -> LayerScores:
        try:
            said, abstained = score_isolating_bad_rows(
                model.model, batch, explain=explain, shown=self._fallback_score
            )
        # here a layer becomes an abstention: its bug must not stop the others
        except Exception as error:  # noqa: BLE001
            self.failed(batch, error)
            return self._silent(LayerStatus.FALLBACK, LayerCrashed.code, batch)
        self._failures_in_a_row[batch.kind] = 0
        if abstained:
            self._tell(
                SlotEvent(
                    "scoring_failed",
                    self._layer,
                    batch.kind,
                    {"events": len(abstained), "error_type": "poisoned rows"},
                )
            )
        status = LayerStatus.STALE if said.abstains else model.status
        guilty = dict.fromkeys(abstained, LayerCrashed.code)
        return LayerScores(
            self._layer,
            status,
            model.version,
            release,
            said.scores,
            said.abstains,
            said.notes,
            said.details,
            guilty,
        )

    def state(self, release: str = ANY_RELEASE) -> SlotState:
        """How it would answer for `release`, or for the newest it holds.

        Looks for `release` if it does not hold it.
        """
        held = next((held for held in self._held if release in (held.name, ANY_RELEASE)), None)
        if held is None:
            self._request(release)
        return SlotState(
            layer=self._layer,
            release=held.name if held else "",
            kinds=self._kinds_of(held),
            wanted=self._loaded.wanted,
            holds={one.name: one.has for one in self._held},
            size_bytes=sum(
                {
                    id(m.model): m.size_bytes for one in self._held for m in one.models.values()
                }.values()
            ),
            files_present=self._failed is None and not self._loaded.trouble,
        )

    def check_health(self) -> None:
        """Raise if only a restart would help; a missing model is not such a case (P38).

        Many failures in a row may be the events' fault. So the model is given the golden events
        again that it scored when it was
        loaded: if it cannot any more, something under it died, e.g. the context of the GPU.
        """
        for held in self._held[:1]:
            for kind, model in held.models.items():
                if model.probe is not None and self._failures_in_a_row[kind] >= SUSPICIOUS_FAILURES:
                    model.model.score(model.probe)

    def _has_reason(self, seen: Hashable, requested: frozenset[str]) -> bool:
        if (
            self._looked == 0
            or seen != self._seen
            or requested - self._tried - {held.name for held in self._held}
        ):
            return True
        is_in_trouble = self._failed is not None or bool(self._loaded.trouble)
        return is_in_trouble and self._clock() >= self._try_at

    def _request(self, release: str) -> None:
        if release != ANY_RELEASE and release not in self._requested:
            self._requested |= {release}
        self.wake()

    def _in_use(self) -> tuple[LoadedRelease, ...]:
        """What it holds that is worth keeping: the newest, and what calls named a moment ago."""
        since = self._clock() - ASKED_WITHIN_S
        return tuple(
            held
            for held in self._held
            if held is self._held[0] or self._asked_at.get(held.name, -math.inf) >= since
        )

    def _end_of_look(
        self,
        ticket: int,
        outcome: LoadResult | LoadFailure,
        seen: Hashable,
        requested: frozenset[str],
    ) -> None:
        with self._lock:
            if ticket < (self._loads if isinstance(outcome, LoadResult) else self._looked):
                return  # it was given up, and what came since is newer
            before, was_held = self._troubles(), self._held
            self._looked = max(ticket, self._looked)
            if isinstance(outcome, LoadResult):
                self._loads, self._held, self._loaded, self._failed = (
                    ticket,
                    self._kept_with(outcome),
                    outcome,
                    None,
                )
            else:
                self._failed = outcome
            self._tried = requested | (self._tried if seen == self._seen else frozenset())
            self._seen, self._requested = seen, self._requested - self._tried
            if self._failed or self._loaded.trouble:
                self._try_at, self._retry_s = (
                    self._clock() + self._retry_s,
                    min(self._retry_s * 2, LONGEST_RETRY_S),
                )
            else:
                self._retry_s = FIRST_RETRY_S
            self._note_since()
        self._tell_outcome(before, was_held)

    def _kept_with(self, loaded: LoadResult) -> tuple[LoadedRelease, ...]:
        """What was loaded, and what is in use of what was held before."""
        new = [release.merged_with(self._held) for release in loaded.releases]
        return (*new, *(old for old in self._in_use() if all(old.name != one.name for one in new)))

    def _troubles(self) -> Mapping[Kind, LoadFailure]:
        return (
            self._loaded.trouble
            if self._failed is None
            else dict.fromkeys(self._kinds, self._failed)
        )

    def _kinds_of(self, held: LoadedRelease | None) -> dict[Kind, KindState]:
        if held is None:
            stands = dict.fromkeys(self._kinds, (self.absence[0], "", self.absence[1]))
        else:
            stands = {
                kind: (model.status, model.version, "") for kind, model in held.models.items()
            }
            stands |= {
                kind: (LayerStatus.FALLBACK, "", failure.code)
                for kind, failure in held.failures.items()
            }
            stands |= dict.fromkeys(
                held.unnamed - stands.keys(), (LayerStatus.NOT_APPLICABLE, "", NOT_IN_RELEASE)
            )
        trouble = self._troubles()
        return {
            kind: KindState(
                status, version, reason, self._began(kind, status, version), trouble.get(kind)
            )
            for kind, (status, version, reason) in stands.items()
        }

    def _began(self, kind: Kind, status: LayerStatus, version: str) -> float:
        known = self._since.get(kind)
        return known[2] if known and known[:2] == (status, version) else 0.0

    def _note_since(self) -> None:
        for kind, state in self._kinds_of(self._held[0] if self._held else None).items():
            if self._since.get(kind, ())[:2] != (state.status, state.version):
                self._since[kind] = (state.status, state.version, self._now())

    def _tell_outcome(
        self, before: Mapping[Kind, LoadFailure], was_held: Sequence[LoadedRelease]
    ) -> None:
        """Say what a look changed; what it only found again is told as no news, to be counted."""
        known = {id(model.model) for held in was_held for model in held.models.values()}
        newest = self._held[0] if self._held else LoadedRelease("")
        for kind, failure in self._troubles().items():
            is_news = before.get(kind) != failure
            fields = {
                "code": failure.code,
                "cause": failure.cause,
                "error": failure.message,
                "error_type": failure.error_type,
            }
            if is_news and failure.code == ArtifactMissing.code:
                self._tell(
                    SlotEvent(
                        "files_missing",
                        self._layer,
                        kind,
                        {"files": [failure.what or failure.message]},
                    )
                )
            self._tell(SlotEvent("load_failed", self._layer, kind, fields | {"is_news": is_news}))
            if is_news and kind not in newest.models:
                self._tell(SlotEvent("fallback_active", self._layer, kind, {"code": failure.code}))
        for kind, model in newest.models.items():
            if id(model.model) not in known or (kind in before and kind not in self._troubles()):
                what = {
                    "version": model.version,
                    "release": newest.name,
                    "status": str(model.status),
                    "size_bytes": model.size_bytes,
                }
                self._tell(SlotEvent("loaded", self._layer, kind, what | dict(model.facts)))

    @property
    def absence(self) -> tuple[LayerStatus, str]:
        """How it stands for a release of which it holds nothing, and why."""
        if self._failed is not None and not self._held:
            return LayerStatus.FALLBACK, self._failed.code
        return LayerStatus.WARMING_UP, "the model is being loaded"

    def _silent(self, status: LayerStatus, reason: str, batch: EventBatch) -> LayerScores:
        if status is LayerStatus.FALLBACK:
            self._tell(
                SlotEvent(
                    "fallback_used",
                    self._layer,
                    batch.kind,
                    {"events": len(batch), "reason": reason},
                )
            )
        return LayerScores.silent(
            self._layer, status, len(batch), reason, score=self._fallback_score
        )
