"""Tenant slots: one layer's models of several tenants, least recently used first to go.

Every tenant's slot looks after its files in threads of its own, so a load that takes long, or
hangs, is that tenant's alone.
A model that two tenants use is in memory once: who needs it takes it from the neighbour, after
proving its own files.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from ensemble.runtime.model_state import LoadedModel
from ensemble.runtime.slot import LayerSlot

__all__ = ["KeptSlot", "TenantSlots"]


class KeptSlot(Protocol):
    """A slot, and who keeps it looked after."""

    @property
    def tenant(self) -> str:
        """Whose it is."""
        ...

    @property
    def slot(self) -> LayerSlot:
        """The slot itself."""
        ...

    def look(self) -> None:
        """Look at its files now; may block, does not raise."""
        ...

    def stop(self) -> None:
        """Look after it no longer."""
        ...


class TenantSlots:
    """One layer's slots by tenant.

    Args:
        make: a slot for a tenant, looked after from then on; must not block. None is made
            before it is asked for.
        home: the tenant whose slot answers who names no release.
        pinned: tenants whose slots never go; `home` is one of them anyway.
        most: slots at once, the pinned ones among them, unless these are more.
    """

    def __init__(
        self, make: Callable[[str], KeptSlot], *, home: str, pinned: Collection[str], most: int
    ) -> None:
        self._make, self._pinned, self._most = make, frozenset({home, *pinned}), most
        self._kept: OrderedDict[str, KeptSlot] = OrderedDict()  # used last, last
        self._lock = threading.Lock()
        self.home = home

    def __iter__(self) -> Iterator[KeptSlot]:
        """The slots that are there now, those used last at the end."""
        return iter(tuple(self._kept.values()))

    def of_release(self, release: str) -> LayerSlot:
        """The slot that answers for `release`, `<tenant>/<serial>`.

        The home slot where it is none.
        """
        return self.of(release.partition("/")[0] or self.home).slot

    def of(self, tenant: str) -> KeptSlot:
        """The slot of a tenant, made when it is asked for first."""
        with self._lock:
            kept = self._kept.get(tenant)
            if kept is None:
                kept = self._kept[tenant] = self._make(tenant)
                gone = self._make_room(but=tenant)
            else:
                gone = []
            self._kept.move_to_end(tenant)
        for one in gone:
            one.stop()
        return kept

    def models(self) -> tuple[LoadedModel, ...]:
        """Every model that a slot holds."""
        return tuple(
            model for kept in self for held in kept.slot.held for model in held.models.values()
        )

    def _make_room(self, *, but: str) -> list[KeptSlot]:
        movable = [tenant for tenant in self._kept if tenant != but and tenant not in self._pinned]
        return [
            self._kept.pop(tenant) for tenant in movable[: max(0, len(self._kept) - self._most)]
        ]
