"""Fair queue: waiting work of several tenants leaves in turns, so that none waits for another's.

Each tenant has a queue of its own. Queues take turns; at its turn a tenant gets a quantum of cost
on top of what it saved, and its oldest work leaves as long as that pays for it.

Source: Shreedhar and Varghese, "Efficient fair queuing using deficit round robin", SIGCOMM 1995.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Queue of items with a tenant and a cost. A tenant without items takes no memory.

    Args:
        quantum: cost that a tenant may spend in one turn, > 0.

    Attributes:
        waiting: cost of all items.
    """

    def __init__(self, quantum: int) -> None:
        self._quantum, self.waiting = quantum, 0
        self._queues: OrderedDict[str, deque[tuple[int, Item]]] = OrderedDict()  # next turn first
        self._costs: dict[str, int] = {}
        self._saved: dict[str, int] = {}

    def waiting_of(self, tenant: str) -> int:
        """Cost of the items of a tenant."""
        return self._costs.get(tenant, 0)

    def ahead_of(self, tenant: str) -> int:
        """Cost of the items that would leave before another item of a tenant, about."""
        tenants = len(self._queues) + (tenant not in self._queues)
        return min(self.waiting, (self.waiting_of(tenant) + self._quantum) * tenants)

    def push(self, tenant: str, cost: int, item: Item) -> None:
        """Add an item behind the others of its tenant."""
        self._queues.setdefault(tenant, deque()).append((cost, item))
        self._costs[tenant] = self.waiting_of(tenant) + cost
        self.waiting += cost

    def pop(self) -> Item | None:
        """Remove and return the next item; None if there is none."""
        while self._queues:
            tenant, queue = next(iter(self._queues.items()))
            cost, item = queue[0]
            if self._saved.setdefault(tenant, self._quantum) < cost:
                self._saved[tenant] += self._quantum
                self._queues.move_to_end(tenant)
                continue
            queue.popleft()
            self._saved[tenant] -= cost
            self._costs[tenant] -= cost
            self.waiting -= cost
            if not queue:
                del self._queues[tenant], self._costs[tenant], self._saved[tenant]
            return item
        return None
