"""Events of a load: what a slot reports to the log and the metrics after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ensemble.errors import ArtifactMissing
from ensemble.events import Kind
from ensemble.runtime.model_state import LoadedRelease, LoadFailure, SlotEvent

__all__ = ["load_events"]


def load_events(
    layer: str,
    before: tuple[Sequence[LoadedRelease], Mapping[Kind, LoadFailure]],
    after: tuple[Sequence[LoadedRelease], Mapping[Kind, LoadFailure]],
) -> Iterator[SlotEvent]:
    """Report what a load changed, and every failure, so that repetitions are counted too.

    Args:
        layer: name of the slot's layer.
        before: loaded releases, newest first, and problems by kind, before the load.
        after: the same after it.
    """
    (old_releases, old_problems), (releases, problems) = before, after
    newest = releases[0] if releases else LoadedRelease("")
    for kind, failure in problems.items():
        is_news = old_problems.get(kind) != failure
        if is_news and failure.code == ArtifactMissing.code:
            files = {"files": [failure.what or failure.message]}
            yield SlotEvent("files_missing", layer, kind, files)
        fields = {
            "code": failure.code,
            "cause": failure.cause,
            "error": failure.message,
            "error_type": failure.error_type,
        }
        yield SlotEvent("load_failed", layer, kind, fields)
        if is_news and kind not in newest.models:
            yield SlotEvent("fallback_active", layer, kind, {"code": failure.code})
    known = {id(model.model) for release in old_releases for model in release.models.values()}
    for kind, model in newest.models.items():
        is_repaired = kind in old_problems and kind not in problems
        if id(model.model) not in known or is_repaired:
            facts = {
                "version": model.version,
                "release": newest.name,
                "status": str(model.status),
                "size_bytes": model.size_bytes,
                **model.facts,
            }
            yield SlotEvent("loaded", layer, kind, facts)
