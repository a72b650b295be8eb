"""A source of a slot's models without a store: the test gives what a load finds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from ensemble.events import Kind
from ensemble.runtime import LoadCheck, LoadedRelease, LoadResult
from ensemble.runtime.resolver import ResolvedReleases

__all__ = ["StaticSource"]


@dataclass
class StaticSource:
    """Files that never change.

    Attributes:
        find: loads, by the releases in use and those requested; may raise.
    """

    find: Callable[[Sequence[LoadedRelease], frozenset[str]], LoadResult]

    def resolve(self) -> ResolvedReleases:
        return cast("ResolvedReleases", None)  # this source needs none

    def fingerprint(self, resolved: ResolvedReleases) -> Hashable:
        del resolved
        return 1

    def load(
        self,
        resolved: ResolvedReleases,
        loaded: Sequence[LoadedRelease],
        requested: frozenset[str],
    ) -> LoadResult:
        del resolved
        return self.find(loaded, requested)

    def check_load(self) -> Mapping[Kind, LoadCheck]:
        self.find([], frozenset())
        return {}
