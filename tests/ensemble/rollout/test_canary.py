"""Canary rollout: a new release takes over in measured steps, and is rolled back if it is worse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.rollout.canary import (
    MOST_TENANTS,
    CanaryRollout,
    RolloutRules,
    RolloutState,
    RolloutView,
)
from ensemble.rollout.comparison import Comparison, compared
from ensemble.rollout.controller import ReleaseController
from ensemble.runtime.release_fusion import ReleaseFusion
from ensemble.verdicts import (
    LayerScores,
    LayerStatus,
    Severity,
    SystemStatus,
    VerdictLabel,
    Verdicts,
)
from tests.support.timing import Clock

RULES = RolloutRules(
    shares=[0.01, 0.1, 1.0],
    max_events_per_s=[],
    step_s=2.0,
    max_step_s=3.0,
    min_events=200,
    max_flip_ratio=0.02,
    max_failure_ratio=0.05,
    max_slowdown=2.0,
    slowdown_floor_s=0.005,
)
SAME = Comparison(events=16, flips=0, calls=3, silent_new=0, silent_old=0, new_s=0.004, old_s=0.004)


@pytest.fixture
def clock() -> Clock:
    return Clock(0.0)


@pytest.fixture
def rollout(clock: Clock) -> CanaryRollout:
    return CanaryRollout("default/2", RULES, clock=clock)


def sampled_batches(rollout: CanaryRollout, batches: int, *, events: int = 1) -> int:
    return sum(rollout.should_take(events) for _ in range(batches))


def serve(
    rollout: CanaryRollout,
    clock: Clock,
    *,
    events_per_s: float,
    seconds: float,
    comparison: Comparison = SAME,
) -> None:
    """Send traffic in batches of 16; every comparison with the old release is `comparison`."""
    for _ in range(int(events_per_s * seconds / 16)):
        if rollout.should_take(16):
            rollout.record(comparison)
        clock.now += 16 / events_per_s


# -- the steps


def test_a_new_release_scores_one_event_in_a_hundred_and_the_first_at_once(
    rollout: CanaryRollout,
) -> None:
    """N-12: the first step begins with the first event, not after a hundred."""
    assert rollout.should_take(1)
    assert sampled_batches(rollout, 1000) == 10
    assert rollout.view.share == 0.01


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=200, max_size=400),
    share=st.sampled_from([0.01, 0.1, 0.5]),
)
def test_the_share_holds_for_events_whatever_the_batches(sizes: list[int], share: float) -> None:
    """Large batches neither starve nor flood the new release; the choice is deterministic."""

    def events_taken() -> int:
        rollout = CanaryRollout("default/2", replace(RULES, shares=[share, 1.0]), clock=Clock(0.0))
        return sum(size for size in sizes if rollout.should_take(size))

    assert events_taken() == events_taken()
    assert abs(events_taken() - share * sum(sizes)) <= max(sizes)


def test_a_healthy_release_on_a_busy_service_has_all_traffic_within_five_seconds(
    rollout: CanaryRollout, clock: Clock
) -> None:
    """P7 and N-12: 1 %, 10 %, all; within ten seconds including the poll of the pointer."""
    shares = []
    while rollout.state is RolloutState.IN_PROGRESS and clock.now < 60.0:
        shares.append(rollout.view.share)
        serve(rollout, clock, events_per_s=20_000, seconds=0.1)

    assert list(dict.fromkeys(shares)) == [0.01, 0.1]
    assert rollout.state is RolloutState.DONE
    assert rollout.view.share == 1.0
    assert rollout.should_take(1)
    assert clock.now <= 5.0


def test_without_traffic_a_rollout_ends_after_six_seconds_with_the_reason(
    rollout: CanaryRollout, clock: Clock
) -> None:
    clock.now += 3.0
    assert rollout.view.share == 0.1
    clock.now += 3.0

    assert rollout.view.state is RolloutState.DONE
    assert rollout.view.reason == "there was nothing to compare on"


def test_a_step_waits_for_its_events_up_to_a_limit(rollout: CanaryRollout, clock: Clock) -> None:
    serve(rollout, clock, events_per_s=100, seconds=2.5)
    assert rollout.view.step == 0, "too few events were compared"
    clock.now = 3.0

    assert rollout.view.step == 1


def test_the_manual_procedure_of_s1_is_a_setting(clock: Clock) -> None:
    """S1-08: one request a second for five minutes, then ten a second if stable."""
    rules = replace(RULES, max_events_per_s=[1.0, 10.0], step_s=300.0, max_step_s=300.0)
    rollout = CanaryRollout("default/2", replace(rules, shares=[0.5, 0.9, 1.0]), clock=clock)

    def taken_in_a_minute() -> int:
        taken = 0
        for _ in range(6000):
            clock.now += 0.01
            taken += rollout.should_take(1)
        return taken

    assert taken_in_a_minute() == pytest.approx(60, abs=2)
    clock.now = 300.0
    assert taken_in_a_minute() == pytest.approx(600, abs=2)


# -- rolling back

WORSE = [
    pytest.param(replace(SAME, flips=1), "verdicts flipped", id="one verdict in sixteen flips"),
    pytest.param(replace(SAME, silent_new=1), "layers were silent", id="a layer abstains"),
    pytest.param(replace(SAME, new_s=0.04), "took longer than allowed", id="ten times slower"),
]


@pytest.mark.parametrize(("comparison", "reason"), WORSE)
def test_a_worse_release_is_rolled_back_with_the_reason(
    rollout: CanaryRollout, clock: Clock, comparison: Comparison, reason: str
) -> None:
    """N-12: automatic rollback; the old release serves all traffic again."""
    serve(rollout, clock, events_per_s=20_000, seconds=5.0, comparison=comparison)

    assert rollout.state is RolloutState.ROLLED_BACK
    assert reason in rollout.view.reason
    assert rollout.view.share == 0.0
    assert sampled_batches(rollout, 1000) == 0


GOOD_ENOUGH = [
    pytest.param(replace(SAME, events=1000, flips=10), id="one verdict in a hundred flips"),
    pytest.param(replace(SAME, silent_new=1, silent_old=1), id="a layer abstains in both"),
    pytest.param(replace(SAME, new_s=0.007), id="not twice as slow"),
    pytest.param(
        replace(SAME, new_s=0.004, old_s=0.001), id="four times slower, by three milliseconds"
    ),
    pytest.param(replace(SAME, new_s=0.001, old_s=0.2), id="faster"),
]


@pytest.mark.parametrize("comparison", GOOD_ENOUGH)
def test_a_release_as_good_as_the_old_one_continues(
    rollout: CanaryRollout, clock: Clock, comparison: Comparison
) -> None:
    serve(rollout, clock, events_per_s=20_000, seconds=6.0, comparison=comparison)

    assert rollout.state is RolloutState.DONE


HICCUPS = [
    pytest.param(replace(SAME, events=8, flips=1), id="one flip in eight events"),
    pytest.param(replace(SAME, silent_new=1), id="one late layer"),
    pytest.param(replace(SAME, new_s=2.0), id="one slow batch"),
]


@pytest.mark.parametrize("first", HICCUPS)
def test_a_single_bad_batch_rolls_nothing_back(
    rollout: CanaryRollout, clock: Clock, first: Comparison
) -> None:
    """Shares of a handful of events would roll back every tenth healthy release."""
    rollout.should_take(16)
    rollout.record(first)

    serve(rollout, clock, events_per_s=20_000, seconds=6.0)

    assert rollout.state is RolloutState.DONE


def test_two_bad_batches_of_one_second_roll_nothing_back(rollout: CanaryRollout) -> None:
    """Abstentions of one incident come together, and a rollback is permanent."""
    for _ in range(4):
        rollout.should_take(1)
        rollout.record(replace(SAME, events=0, calls=3, silent_new=3))

    assert rollout.state is RolloutState.IN_PROGRESS


def test_a_rollout_that_ended_does_not_change(rollout: CanaryRollout, clock: Clock) -> None:
    rollout.abort("another ingress saw it flip")
    serve(rollout, clock, events_per_s=20_000, seconds=20.0)

    assert rollout.view.reason == "another ingress saw it flip"
    assert rollout.state is RolloutState.ROLLED_BACK


# -- comparing


def opinion(layer: str, size: int, status: LayerStatus = LayerStatus.LIVE) -> LayerScores:
    return LayerScores(layer, status, "1", "", np.full(size, 0.5))


def group(
    words: str, *, coverage: float = 1.0, rows: list[int] | None = None, silent: bool = False
) -> Verdicts:
    """Verdicts b, s, m or i of a batch, one letter for each event."""
    letters = {label[0]: label for label in VerdictLabel}
    size = len(words)
    return Verdicts(
        score=np.zeros(size),
        low=np.zeros(size),
        high=np.zeros(size),
        label=tuple(letters[letter] for letter in words),
        severity=(Severity.LOW,) * size,
        coverage=coverage,
        degraded=silent,
        status=SystemStatus.FULLY_OPERATIONAL,
        layers=(
            opinion("anomaly", size),
            opinion("behavior", size, LayerStatus.TIMEOUT if silent else LayerStatus.LIVE),
        ),
        rows=None if rows is None else np.array(rows, dtype=np.intp),
    )


# -- tenants


def of_tenants(**counts: tuple[int, int]) -> Comparison:
    """One batch: tenant -> its events and flips."""
    events, flips = (sum(column) for column in zip(*counts.values(), strict=True))
    return replace(SAME, events=events, flips=flips, by_tenant=counts)


ALONE = {
    "its verdicts flip": replace(SAME, events=20, flips=20),
    "its batches are slow": replace(SAME, new_s=1.0),
    "layers are silent in its batches": replace(SAME, silent_new=3),
}


def of_loud(comparison: Comparison) -> Comparison:
    return replace(comparison, by_tenant={"loud": (comparison.events, comparison.flips)})


@pytest.mark.parametrize("comparison", ALONE.values(), ids=ALONE)
@pytest.mark.parametrize("quiet", [0, 1, 50], ids=["alone", "one event of another", "another too"])
def test_one_tenant_does_not_decide_for_the_others(
    rollout: CanaryRollout, comparison: Comparison, quiet: int
) -> None:
    """A4: 80 flips a second of one tenant ended the rollout of all after 11 compared events."""
    for _ in range(quiet):
        rollout.record(of_tenants(quiet=(1, 0)))
    for _ in range(100):
        rollout.record(of_loud(comparison))

    assert rollout.state is RolloutState.IN_PROGRESS


@pytest.mark.parametrize("comparison", ALONE.values(), ids=ALONE)
def test_the_owner_of_a_release_decides_alone(clock: Clock, comparison: Comparison) -> None:
    rollout = CanaryRollout("acme/2", RULES, clock=clock, decides_alone="loud".__eq__)
    for _ in range(100):
        rollout.record(of_loud(comparison))

    assert rollout.state is RolloutState.ROLLED_BACK


def test_a_release_that_flips_verdicts_for_most_tenants_is_rolled_back(
    rollout: CanaryRollout,
) -> None:
    for _ in range(10):
        rollout.record(of_tenants(a=(10, 10), b=(10, 10), c=(10, 0)))

    assert rollout.state is RolloutState.ROLLED_BACK


def test_tenants_that_sent_an_event_each_do_not_keep_a_release_that_is_worse_for_the_others(
    rollout: CanaryRollout,
) -> None:
    rollout.record(of_tenants(q1=(1, 0), q2=(1, 0), q3=(1, 0), q4=(1, 0)))
    for _ in range(3):
        rollout.record(of_tenants(a=(10, 10), b=(10, 10)))

    assert rollout.state is RolloutState.ROLLED_BACK


def test_a_few_events_of_the_tenants_say_nothing(rollout: CanaryRollout) -> None:
    rollout.record(of_tenants(a=(29, 29), b=(29, 29)))
    assert rollout.state is RolloutState.IN_PROGRESS

    rollout.record(of_tenants(a=(1, 1), b=(1, 1)))
    assert rollout.state is RolloutState.ROLLED_BACK


def test_a_tenant_sees_the_counts_of_its_own_events(rollout: CanaryRollout) -> None:
    rollout.record(of_tenants(a=(40, 3), b=(5, 0)))

    counts = {name: rollout.view_of(name) for name in ("a", "b", "c")}
    assert {name: (view.events, view.flips) for name, view in counts.items()} == {
        "a": (40, 3),
        "b": (5, 0),
        "c": (0, 0),
    }
    assert (rollout.view.events, rollout.view.flips) == (45, 3)


def test_the_tenants_that_are_judged_are_bounded(rollout: CanaryRollout) -> None:
    for number in range(2 * MOST_TENANTS):
        rollout.record(of_tenants(**{f"t{number}": (1, 0)}))

    assert len(rollout._by_tenant) == MOST_TENANTS
    assert rollout.view.events == 2 * MOST_TENANTS


def test_rows_are_compared_by_their_tenants() -> None:
    found = compared([group("bmb")], [group("bbb")], new_s=0.1, old_s=0.1, tenants=["a", "b", "a"])

    assert found.tenants == {"a": (2, 0), "b": (1, 1)}


def test_a_verdict_that_differs_is_a_flip() -> None:
    found = compared([group("bbmi")], [group("bsmb")], new_s=0.1, old_s=0.2)

    assert found == Comparison(
        events=4, flips=2, calls=2, silent_new=0, silent_old=0, new_s=0.1, old_s=0.2
    )


def test_a_late_layer_is_an_abstention_and_no_flip() -> None:
    found = compared(
        [group("iiii", coverage=0.4, silent=True)], [group("bbbb")], new_s=0.1, old_s=0.1
    )

    assert (found.events, found.flips, found.silent_new, found.silent_old) == (0, 0, 1, 0)


def test_a_fusion_without_thresholds_flips_every_verdict() -> None:
    """Every layer had an opinion, but the new release has no thresholds for them."""
    assert compared([group("iiii")], [group("bbsm")], new_s=0.1, old_s=0.1).flips == 4


def test_an_indeterminate_verdict_of_the_old_release_cannot_flip() -> None:
    assert compared([group("bsm")], [group("iii")], new_s=0.1, old_s=0.1).flips == 0


@pytest.mark.parametrize("unknown_to", ["new", "old", "both"])
def test_events_of_which_a_release_knows_nothing_say_nothing_about_it(unknown_to: str) -> None:
    """A7: neither as compared events, nor as flips, nor as abstentions."""
    known, blank = group("bb"), group("ii", coverage=0.0)
    unknown = replace(
        blank, layers=(opinion("anomaly", 2, LayerStatus.UNINFORMED), *blank.layers[1:])
    )
    new, old = (unknown if unknown_to in {side, "both"} else known for side in ("new", "old"))

    found = compared([new], [old], new_s=0.1, old_s=0.1)

    assert (found.events, found.flips, found.silent_new, found.silent_old) == (0, 0, 0, 0)


def test_the_same_rows_are_compared_however_they_are_grouped() -> None:
    new = [group("bm", rows=[0, 2]), group("s", rows=[1])]

    assert compared(new, [group("bsm")], new_s=0.1, old_s=0.1).flips == 0
    assert compared(new, [group("bms")], new_s=0.1, old_s=0.1).flips == 2


# -- controller

ONE, TWO, THREE = (ReleaseFusion(f"default/{serial}") for serial in (1, 2, 3))
MakeController = Callable[..., ReleaseController]


@pytest.fixture
def views() -> list[RolloutView]:
    return []


@pytest.fixture
def activated() -> list[str]:
    return []


@pytest.fixture
def controller(clock: Clock, views: list[RolloutView], activated: list[str]) -> ReleaseController:
    """A controller with release 1 active."""
    made = ReleaseController(
        RULES, clock=clock, on_active=activated.append, on_rollout=views.append
    )
    made.switch_to(ONE, at_once=False)
    return made


def test_the_first_release_gets_all_traffic_at_once(
    controller: ReleaseController, activated: list[str]
) -> None:
    assert controller.active == ONE
    assert not controller.is_rolling_out
    assert controller.view is None
    assert activated == ["default/1"]


def test_a_new_release_is_rolled_out_beside_the_active_one(
    controller: ReleaseController, views: list[RolloutView]
) -> None:
    controller.switch_to(TWO, at_once=False)

    assert controller.route(1) == (TWO, ONE)
    assert controller.route(1) == (ONE, None)
    assert controller.active == ONE
    assert [(view.release, view.step, view.state) for view in views] == [
        ("default/2", 0, "in_progress")
    ]


def test_switching_to_the_same_release_again_changes_nothing(
    controller: ReleaseController, clock: Clock, views: list[RolloutView]
) -> None:
    """The watcher polls every two seconds; a rollout that restarted each time would never end."""
    for _ in range(4):
        controller.switch_to(TWO, at_once=False)
        assert not controller.would_change("default/2")
        clock.now += 2.0

    assert controller.active == TWO
    assert [view.state for view in views] == ["in_progress", "in_progress", "done"]


def test_a_rolled_back_release_is_not_rolled_out_again(
    controller: ReleaseController, views: list[RolloutView]
) -> None:
    controller.switch_to(TWO, at_once=False)
    for _ in range(100):
        controller.record("default/2", replace(SAME, flips=8))

    controller.switch_to(TWO, at_once=False)

    assert not controller.would_change("default/2")
    assert (controller.active, controller.is_rolling_out) == (ONE, False)
    assert [view.state for view in views] == ["in_progress", "rolled_back"]


def test_a_rolled_back_release_may_be_promoted_again(controller: ReleaseController) -> None:
    """The operator promoted another release and this one again, which is a decision."""
    controller.switch_to(TWO, at_once=False)
    controller.roll_back("default/2", "flips")
    controller.switch_to(ONE, at_once=False)

    controller.switch_to(TWO, at_once=False)

    assert controller.is_rolling_out


def test_a_rollback_gets_all_traffic_at_once(
    controller: ReleaseController, clock: Clock, activated: list[str]
) -> None:
    """P8: within five seconds; the release was active before, so it is proven."""
    controller.switch_to(TWO, at_once=False)
    clock.now += 6.0
    assert controller.active == TWO

    controller.switch_to(ONE, at_once=False)

    assert controller.route(1) == (ONE, None)
    assert activated == ["default/1", "default/2", "default/1"]


def test_an_operator_may_promote_at_once(controller: ReleaseController) -> None:
    controller.switch_to(TWO, at_once=True)
    assert controller.active == TWO
    controller.switch_to(THREE, at_once=False)
    controller.switch_to(THREE, at_once=True)

    assert controller.active == THREE
    assert not controller.is_rolling_out


def test_a_pointer_that_moves_during_a_step_ends_the_step(controller: ReleaseController) -> None:
    controller.switch_to(TWO, at_once=False)
    controller.switch_to(THREE, at_once=False)

    assert controller.route(1) == (THREE, ONE)
    controller.switch_to(ONE, at_once=False)
    assert controller.route(1) == (ONE, None)


def test_a_pointer_that_moves_to_a_rolled_back_release_ends_the_step_too(
    controller: ReleaseController,
) -> None:
    controller.switch_to(THREE, at_once=False)
    controller.roll_back("default/2", "flips at another ingress")

    controller.switch_to(TWO, at_once=False)

    assert controller.route(1) == (ONE, None)


def test_a_rollback_of_another_ingress_is_followed(
    controller: ReleaseController, clock: Clock
) -> None:
    """Ingress replicas decide independently; one rollback is enough, whatever others found."""
    controller.switch_to(TWO, at_once=False)
    clock.now += 6.0
    assert controller.active == TWO

    for _ in range(2):
        controller.roll_back("default/2", "flips at another ingress")
        controller.switch_to(TWO, at_once=False)

    assert controller.active == ONE
    assert controller.view is not None
    assert (controller.view.state, controller.view.reason) == (
        RolloutState.ROLLED_BACK,
        "flips at another ingress",
    )


def test_a_rollback_that_is_known_before_the_release_comes_excludes_it(
    controller: ReleaseController,
) -> None:
    controller.roll_back("default/2", "flips at another ingress")

    controller.switch_to(TWO, at_once=False)

    assert (controller.active, controller.is_rolling_out) == (ONE, False)


def test_the_only_release_is_never_rolled_back(controller: ReleaseController) -> None:
    """Verdicts of a doubtful release are better than none."""
    controller.roll_back("default/1", "doubted")

    assert controller.active == ONE


def test_a_comparison_of_an_earlier_rollout_does_not_count(
    controller: ReleaseController,
) -> None:
    controller.switch_to(TWO, at_once=False)
    controller.switch_to(THREE, at_once=False)

    for _ in range(100):
        controller.record("default/2", replace(SAME, flips=16))

    assert controller.is_rolling_out
