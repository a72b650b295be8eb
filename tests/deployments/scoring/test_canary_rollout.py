"""A canary rollout in the pipeline: two releases score, and one makes the verdicts (N-12)."""

from __future__ import annotations

import asyncio

from ensemble.rollout.canary import RolloutState
from tests.support.guarded_layers import (
    FLOWS,
    ONE,
    TWO,
    GuardedPipeline,
    until,
)


async def _stepped(world: GuardedPipeline, batches: int) -> None:
    for _ in range(batches):
        await world.score()
        await asyncio.sleep(0)
    await until(lambda: len(asyncio.all_tasks()) == world.tasks_before + 1)  # and `until`


async def test_a_canary_release_scores_its_share_and_each_of_its_batches_is_compared() -> None:
    """N-12: the new release makes the verdicts; the old one scores the same batches too."""
    world = GuardedPipeline()
    world.pipeline.controller.switch_to(TWO, at_once=False)

    await _stepped(world, 200)

    requested = world.layers["anomaly"].requested
    assert requested[:2] == ["default/2", "default/1"]
    assert (requested.count("default/2"), requested.count("default/1")) == (
        3,
        200,
    )  # 1 % of 200, and the first at once
    assert world.pipeline.release == ONE
    assert world.pipeline.controller.view is not None
    assert (world.pipeline.controller.view.events, world.pipeline.controller.view.flips) == (
        6,
        0,
    )
    assert len(world.metrics.batches) == 200, "a comparison is no answer"


async def test_a_rescore_is_not_counted_as_traffic() -> None:
    """N-02, N-12: a rescore is not counted again, and a new release is not rated by it."""
    world = GuardedPipeline()
    world.pipeline.controller.switch_to(TWO, at_once=False)

    for _ in range(200):
        await world.pipeline.score(FLOWS, world.deadline(), explain=False, is_rescore=True)

    assert world.layers["anomaly"].requested == ["default/1"] * 200
    assert world.pipeline.controller.view is not None
    assert world.pipeline.controller.view.events == 0
    assert world.metrics.batches == []


async def test_a_verdict_does_not_wait_for_its_comparison() -> None:
    world = GuardedPipeline()
    world.pipeline.controller.switch_to(TWO, at_once=False)
    before = asyncio.all_tasks()

    said = await world.score()
    world.layers["anomaly"].is_hung = True
    comparison = asyncio.all_tasks() - before

    assert said["anomaly"].release == "default/2"
    assert len(comparison) == 1, "the comparison is a task of its own"
    await _stepped(world, 1)


async def test_a_canary_release_that_flips_verdicts_is_rolled_back() -> None:
    world = GuardedPipeline()
    for layer in ("anomaly", "behavior"):
        world.layers[layer].scores_of["default/2"] = 0.0
    world.pipeline.controller.switch_to(TWO, at_once=False)

    await _stepped(world, 3000)

    assert world.pipeline.controller.view is not None
    assert (world.pipeline.controller.view.state, world.pipeline.release) == (
        RolloutState.ROLLED_BACK,
        ONE,
    )
    assert "flipped" in world.pipeline.controller.view.reason
    assert [view.state for view in world.metrics.rollouts] == ["in_progress", "rolled_back"]
    world.pipeline.controller.switch_to(TWO, at_once=False)
    before = world.layers["anomaly"].requested.count("default/2")
    await _stepped(world, 200)
    assert world.layers["anomaly"].requested.count("default/2") == before


async def test_after_a_rollout_the_new_release_scores_every_batch_once() -> None:
    world = GuardedPipeline()
    world.pipeline.controller.switch_to(TWO, at_once=False)
    await _stepped(world, 1)
    world.clock.now += 6.0
    world.layers["anomaly"].requested.clear()

    await _stepped(world, 20)

    assert world.layers["anomaly"].requested == ["default/2"] * 20
    assert world.pipeline.release == TWO
    assert world.metrics.rollouts[-1].state is RolloutState.DONE


async def test_a_rollback_of_another_ingress_replica_applies_here() -> None:
    world = GuardedPipeline()
    world.pipeline.controller.switch_to(TWO, at_once=False)
    world.clock.now += 6.0
    assert world.pipeline.release == TWO

    world.pipeline.controller.roll_back("default/2", "flips at another ingress")
    world.pipeline.controller.switch_to(TWO, at_once=False)

    said = await world.score()
    assert said["anomaly"].release == "default/1"


async def test_each_verdict_is_made_by_one_release_during_a_rollout() -> None:
    """DESIGN section 4."""
    world = GuardedPipeline({"rollout": {"shares": [0.3, 1.0]}})
    world.pipeline.controller.switch_to(TWO, at_once=False)

    for _ in range(300):
        said = await world.score()
        assert len({one.release for one in said.values()}) == 1
