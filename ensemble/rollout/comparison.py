"""Comparison of two releases on one batch that both scored, for each tenant of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ensemble.verdicts import LayerStatus, VerdictLabel, Verdicts, by_row

__all__ = ["Comparison", "comparable", "compared"]

# statuses that do not depend on the release
_NOT_COUNTED = (
    LayerStatus.NOT_APPLICABLE,
    LayerStatus.DISABLED,
    LayerStatus.OPEN,
    LayerStatus.UNINFORMED,
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One batch, scored by both releases.

    Attributes:
        events: events whose verdicts can be compared, because the new release has at least the
            coverage of the old one.
        flips: those of them whose verdict differs.
        calls: opinions requested of each release.
        silent_new: abstentions of the new release among them.
        silent_old: abstentions of the old release among them.
        new_s: seconds of the layers for the new release.
        old_s: seconds of the layers for the old release.
        by_tenant: tenant -> its events and flips; by default all are of one tenant.
    """

    events: int
    flips: int
    calls: int
    silent_new: int
    silent_old: int
    new_s: float
    old_s: float
    by_tenant: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def tenants(self) -> Mapping[str, tuple[int, int]]:
        """Tenant -> its events and flips."""
        return self.by_tenant or {"": (self.events, self.flips)}


def compared(
    new: Sequence[Verdicts],
    old: Sequence[Verdicts],
    *,
    new_s: float,
    old_s: float,
    tenants: Sequence[str] = (),
) -> Comparison:
    """Compare the verdicts of two releases on one batch.

    Rows that are not `comparable` are counted by their abstentions, not by their verdicts.

    Args:
        new: verdicts of the new release, all rows of the batch.
        old: those of the old release.
        new_s: seconds of the layers for the new release.
        old_s: seconds of the layers for the old release.
        tenants: the tenant of each row; empty where all are of one.
    """
    new_verdicts, old_verdicts = (by_row(groups, lambda one: one.label) for groups in (new, old))
    is_comparable = comparable(new, old)
    differs = (new_verdicts != old_verdicts) & (old_verdicts != VerdictLabel.INDETERMINATE)
    flips = (differs & is_comparable).astype(np.bool_)
    calls, silent_new = _silent(new)
    _, silent_old = _silent(old)
    names, places = np.unique(np.array(tenants, dtype=np.str_), return_inverse=True)
    counts = [
        np.bincount(places, weights=which, minlength=len(names)).astype(int).tolist()
        for which in (is_comparable, flips)
        if len(names)
    ]
    return Comparison(
        int(is_comparable.sum()),
        int(flips.sum()),
        calls,
        silent_new,
        silent_old,
        new_s=new_s,
        old_s=old_s,
        by_tenant=dict(zip(names.tolist(), zip(*counts, strict=True), strict=True)),
    )


def comparable(new: Sequence[Verdicts], old: Sequence[Verdicts]) -> NDArray[np.bool_]:
    """Which rows of a batch can be compared by their verdicts, bool (n,).

    Not those on which the new release has less coverage, or one late layer would flip all verdicts
    of a batch; and not those of which either release knows nothing.
    """
    new_coverage, old_coverage = (
        by_row(groups, lambda one: one.coverage).astype(np.float64) for groups in (new, old)
    )
    is_uninformed = [
        by_row(groups, lambda one: one.is_uninformed).astype(np.bool_) for groups in (new, old)
    ]
    return (new_coverage >= old_coverage) & ~is_uninformed[0] & ~is_uninformed[1]


def _silent(groups: Sequence[Verdicts]) -> tuple[int, int]:
    """Count the opinions requested for a batch, and the abstentions among them.

    A layer counts once for each group of rows.
    """
    opinions = [one for group in groups for one in group.layers if one.status not in _NOT_COUNTED]
    return len(opinions), sum(not one.speaks for one in opinions)
