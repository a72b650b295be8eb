"""The fair queue: tenants take turns by cost, each in its own order."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ensemble.guard import FairQueue

QUANTUM = 256


def drained(queue: FairQueue[tuple[str, int]]) -> list[tuple[str, int]]:
    left = []
    while (item := queue.pop()) is not None:
        left.append(item)
    return left


def test_a_tenant_with_much_work_waits_for_one_with_little() -> None:
    """P21: a hundred batches of one tenant stand before none of another."""
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM)
    for number in range(100):
        queue.push("bulk", QUANTUM, ("bulk", number))
    queue.push("quiet", 10, ("quiet", 0))

    assert [tenant for tenant, _ in drained(queue)][:3].count("quiet") == 1


def test_turns_are_by_cost_and_not_by_items() -> None:
    """Otherwise a tenant gets more by larger parts."""
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM)
    for number in range(64):
        queue.push("large", QUANTUM, ("large", number))
        for part in range(16):
            queue.push("small", QUANTUM // 16, ("small", 16 * number + part))

    served = [queue.pop() for _ in range(340)]

    cost = Counter[str]()
    for item in served:
        assert item is not None
        cost[item[0]] += QUANTUM if item[0] == "large" else QUANTUM // 16
    assert abs(cost["large"] - cost["small"]) <= 2 * QUANTUM


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 4 * QUANTUM)), min_size=1, max_size=60
    )
)
def test_nothing_is_lost_and_each_tenant_keeps_its_order(pushed: list[tuple[str, int]]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue(QUANTUM)
    for number, (tenant, cost) in enumerate(pushed):
        queue.push(tenant, cost, (tenant, number))
    assert queue.waiting == sum(cost for _, cost in pushed)
    assert queue.waiting_of("a") == sum(cost for tenant, cost in pushed if tenant == "a")

    left = drained(queue)

    assert sorted(number for _, number in left) == list(range(len(pushed)))
    for tenant in "abc":
        own = [number for name, number in left if name == tenant]
        assert own == sorted(own)
    assert (queue.waiting, queue.waiting_of("a")) == (0, 0)
