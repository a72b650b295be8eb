"""Which models a tenant sees: all of its own, and of those it lives on what serves there.

A tenant without a model of some name uses its group's, or the generic one. So it is lent what has
the word champion with them, and
nothing else of theirs: not older versions, not what they try. What is lent is looked at and used;
only its owner changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.errors import ArtifactError, ArtifactMissing
from ensemble.store import Alias, BundleInfo, ModelName, Store, Tenant, describe_bundle, list_models

__all__ = ["VisibleModel", "find_visible", "list_visible"]


@dataclass(frozen=True, slots=True)
class VisibleModel:
    """A version of a model as one tenant sees it.

    Attributes:
        info: what is known of it.
        is_inherited: it is another tenant's.
    """

    info: BundleInfo
    is_inherited: bool


def list_visible(
    store: Store, lineage: Sequence[Tenant], model: ModelName | None = None
) -> list[VisibleModel]:
    """Everything that the first of `lineage` sees, its own first.

    The versions of one model where `model` is given.
    """
    owner, *parents = lineage
    own = [VisibleModel(info, is_inherited=False) for info in list_models(store, owner, model)]
    return own + [
        VisibleModel(info, is_inherited=True)
        for parent in parents
        for info in list_models(store, parent, model)
        if Alias.CHAMPION in info.aliases
    ]


def find_visible(
    store: Store, lineage: Sequence[Tenant], model: ModelName, which: int | Alias | None = None
) -> VisibleModel:
    """One version of a model: of the nearest of `lineage` that has the model at all, as `describe_bundle` finds it.

    Raises:
        ArtifactMissing: nobody of `lineage` has it, or it is not lent.
        ArtifactError: an alias of the owner's is broken.
    """
    owner, *parents = lineage
    if list_models(store, owner, model):
        return VisibleModel(describe_bundle(store, owner, model, which), is_inherited=False)
    for parent in parents:
        try:
            info = describe_bundle(store, parent, model, Alias.CHAMPION)
        except ArtifactError:  # the next of the lineage serves in its place
            continue
        if which in (None, Alias.CHAMPION, info.version):
            return VisibleModel(info, is_inherited=True)
        break
    raise ArtifactMissing(f"model {model}")
