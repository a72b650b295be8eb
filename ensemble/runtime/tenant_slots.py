"""LRU cache of slots: one layer's models of several tenants in one process.

Every tenant's slot polls its files in threads of its own, so a load that is slow or hangs affects
that tenant alone. A model that two tenants use is in memory once: the second slot shares it after
proving its own files.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Generic, Protocol, TypeVar

from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.model_state import LoadedModel

__all__ = ["TenantSlots"]


class _Polled(Protocol):
    @property
    def slot(self) -> LayerSlot: ...

    def stop(self) -> None: ...


Polled = TypeVar("Polled", bound=_Polled)


class TenantSlots(Generic[Polled]):
    """One layer's slots by tenant.

    Args:
        make: makes and starts the polled slot of a tenant, at its first use; must not block.
        default: tenant whose slot serves calls that name no release.
        pinned: tenants whose slots are never evicted, beside `default`.
        most: maximum number of slots, the pinned ones included, unless there are more of these.
    """

    def __init__(
        self, make: Callable[[str], Polled], *, default: str, pinned: Collection[str], most: int
    ) -> None:
        self._make, self._pinned, self._most = make, frozenset({default, *pinned}), most
        self._slots: OrderedDict[str, Polled] = OrderedDict()  # the one used last at the end
        self._lock = threading.Lock()
        self.default = default

    def __iter__(self) -> Iterator[Polled]:
        """Iterate over the cached slots, the most recently used last."""
        return iter(tuple(self._slots.values()))

    def of_release(self, release: str) -> LayerSlot:
        """Return the slot for `release`, `<tenant>/<serial>`, or the default slot for ""."""
        return self.of(release.partition("/")[0] or self.default).slot

    def of(self, tenant: str) -> Polled:
        """Return the slot of a tenant, which is made at its first use."""
        evicted: list[Polled] = []
        with self._lock:
            found = self._slots.get(tenant)
            if found is None:
                found = self._slots[tenant] = self._make(tenant)
                evicted = self._evict(but=tenant)
            self._slots.move_to_end(tenant)
        for one in evicted:
            one.stop()
        return found

    def models(self) -> tuple[LoadedModel, ...]:
        """All loaded models of all slots."""
        return tuple(
            model
            for polled in self
            for release in polled.slot.loaded
            for model in release.models.values()
        )

    def _evict(self, *, but: str) -> list[Polled]:
        movable = [tenant for tenant in self._slots if tenant != but and tenant not in self._pinned]
        excess = max(0, len(self._slots) - self._most)
        return [self._slots.pop(tenant) for tenant in movable[:excess]]
