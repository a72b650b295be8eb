"""Sources of a slot's models without a store: the test sets the result of a load."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from ensemble.events import Kind
from ensemble.runtime import LoadCheck, LoadedRelease, LoadResult
from ensemble.runtime.model_state import LoadFailure
from ensemble.runtime.resolver import ResolvedReleases

__all__ = ["FakeSource", "StaticSource"]


@dataclass
class StaticSource:
    """A source whose files never change.

    Attributes:
        find: the load, from the loaded and the requested releases; may raise.
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


@dataclass
class FakeSource:
    """A source whose files the test changes.

    Attributes:
        found: the releases that a load returns, the requested one first, or the error it raises.
        touched: changes of the files so far.
    """

    found: Sequence[LoadedRelease] | Exception = ()
    problems: Mapping[Kind, LoadFailure] = field(default_factory=dict)
    touched: int = 0
    loads: int = 0
    resolved: int = 0
    fingerprinted: list[ResolvedReleases] = field(default_factory=list)
    loaded_of: list[ResolvedReleases] = field(default_factory=list)
    requests: list[frozenset[str]] = field(default_factory=list)

    def resolve(self) -> ResolvedReleases:
        self.resolved += 1
        # a new object each time: a slot must pass on the one it got
        return cast("ResolvedReleases", (self.resolved, self.touched))

    def fingerprint(self, resolved: ResolvedReleases) -> Hashable:
        self.fingerprinted.append(resolved)
        return cast("tuple[int, int]", resolved)[1]

    def load(
        self,
        resolved: ResolvedReleases,
        loaded: Sequence[LoadedRelease],
        requested: frozenset[str],
    ) -> LoadResult:
        del loaded
        self.loaded_of.append(resolved)
        self.loads += 1
        self.requests.append(requested)
        if isinstance(self.found, Exception):
            raise self.found
        return LoadResult(self.found[0].name, tuple(self.found), self.problems)

    def check_load(self) -> Mapping[Kind, LoadCheck]:
        return {Kind.FLOW: LoadCheck(ok=True, version="v9", code="", message="", elapsed_ms=1.0)}

    def put(self, *found: LoadedRelease) -> None:
        """Replace the files by those of other releases."""
        self.found, self.touched = found, self.touched + 1
