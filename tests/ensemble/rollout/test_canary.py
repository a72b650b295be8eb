"""A new release takes over in measured steps, and steps back by itself when it is worse than the one it replaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.rollout.canary import (
    CanaryRollout,
    Comparison,
    RolloutRules,
    RolloutState,
    RolloutView,
    compared,
)
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


def taken_of(rollout: CanaryRollout, batches: int, *, events: int = 1) -> int:
    return sum(rollout.should_take(events) for _ in range(batches))


def serve(
    rollout: CanaryRollout,
    clock: Clock,
    *,
    events_per_s: float,
    seconds: float,
    said: Comparison = SAME,
) -> None:
    """Traffic in batches of 16, each batch that the new release takes compared as `said`."""
    for _ in range(int(events_per_s * seconds / 16)):
        if rollout.should_take(16):
            rollout.record(said)
        clock.now += 16 / events_per_s


# -- the steps


def test_a_new_release_answers_one_event_in_a_hundred_and_the_first_at_once(
    rollout: CanaryRollout,
) -> None:
    """N-12: the first step begins with the first event, not after a hundred."""
    assert rollout.should_take(1)
    assert taken_of(rollout, 1000) == 10
    assert rollout.view.share == 0.01


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=200, max_size=400),
    share=st.sampled_from([0.01, 0.1, 0.5]),
)
def test_the_share_holds_for_events_whatever_the_batches(sizes: list[int], share: float) -> None:
    """Big batches neither starve nor flood the new release; the choice is the same every time."""

    def events_taken() -> int:
        rollout = CanaryRollout("default/2", replace(RULES, shares=[share, 1.0]), clock=Clock(0.0))
        return sum(size for size in sizes if rollout.should_take(size))

    assert events_taken() == events_taken()
    assert abs(events_taken() - share * sum(sizes)) <= max(sizes)


def test_a_healthy_release_on_a_busy_service_has_all_traffic_within_five_seconds(
    rollout: CanaryRollout, clock: Clock
) -> None:
    """P7 and N-12 together: 1 %, 10 %, all; with the look at the pointer before it, within ten."""
    shares = []
    while rollout.state is RolloutState.IN_PROGRESS and clock.now < 60.0:
        shares.append(rollout.view.share)
        serve(rollout, clock, events_per_s=20_000, seconds=0.1)

    assert list(dict.fromkeys(shares)) == [0.01, 0.1]
    assert rollout.state is RolloutState.DONE
    assert rollout.view.share == 1.0
    assert rollout.should_take(1)
    assert clock.now <= 5.0


def test_an_idle_service_is_over_after_six_seconds_and_says_that_it_saw_nothing(
    rollout: CanaryRollout, clock: Clock
) -> None:
    clock.now += 3.0
    assert rollout.view.share == 0.1
    clock.now += 3.0

    assert rollout.view.state is RolloutState.DONE
    assert rollout.view.reason == "there was nothing to compare on"


def test_a_step_waits_for_its_events_and_not_for_ever(rollout: CanaryRollout, clock: Clock) -> None:
    serve(rollout, clock, events_per_s=100, seconds=2.5)
    assert rollout.view.step == 0, "too few events were compared"
    clock.now = 3.0

    assert rollout.view.step == 1


def test_the_hand_procedure_of_old_is_a_setting(clock: Clock) -> None:
    """S1-08: one request a second, watched for five minutes, then ten a second if stable."""
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


# -- stepping back

WORSE = [
    pytest.param(replace(SAME, flips=1), "verdicts flipped", id="one verdict in sixteen flips"),
    pytest.param(
        replace(SAME, silent_new=1), "layers were silent", id="a layer that spoke falls silent"
    ),
    pytest.param(replace(SAME, new_s=0.04), "took longer than allowed", id="ten times slower"),
]


@pytest.mark.parametrize(("said", "reason"), WORSE)
def test_a_release_that_is_worse_steps_back_and_says_why(
    rollout: CanaryRollout, clock: Clock, said: Comparison, reason: str
) -> None:
    """N-12: automatic retreat; the old release goes on."""
    serve(rollout, clock, events_per_s=20_000, seconds=5.0, said=said)

    assert rollout.state is RolloutState.ROLLED_BACK
    assert reason in rollout.view.reason
    assert rollout.view.share == 0.0
    assert taken_of(rollout, 1000) == 0


GOOD_ENOUGH = [
    pytest.param(replace(SAME, events=1000, flips=10), id="one verdict in a hundred flips"),
    pytest.param(replace(SAME, silent_new=1, silent_old=1), id="a layer is silent in both"),
    pytest.param(replace(SAME, new_s=0.007), id="not twice as slow"),
    pytest.param(
        replace(SAME, new_s=0.004, old_s=0.001), id="four times slower, by three milliseconds"
    ),
    pytest.param(replace(SAME, new_s=0.001, old_s=0.2), id="faster"),
]


@pytest.mark.parametrize("said", GOOD_ENOUGH)
def test_a_release_that_is_as_good_as_the_old_one_goes_on(
    rollout: CanaryRollout, clock: Clock, said: Comparison
) -> None:
    serve(rollout, clock, events_per_s=20_000, seconds=6.0, said=said)

    assert rollout.state is RolloutState.DONE


HICCUPS = [
    pytest.param(replace(SAME, events=8, flips=1), id="one flip in eight events"),
    pytest.param(replace(SAME, silent_new=1), id="one late layer"),
    pytest.param(replace(SAME, new_s=2.0), id="one slow batch"),
]


@pytest.mark.parametrize("first", HICCUPS)
def test_one_hiccup_is_no_reason_to_step_back(
    rollout: CanaryRollout, clock: Clock, first: Comparison
) -> None:
    """A share read off a handful of events would throw every tenth healthy release back."""
    rollout.should_take(16)
    rollout.record(first)

    serve(rollout, clock, events_per_s=20_000, seconds=6.0)

    assert rollout.state is RolloutState.DONE


def test_two_bad_batches_of_one_bad_second_are_no_bad_release(rollout: CanaryRollout) -> None:
    """Silences of one incident come together.

    A few of them say nothing of a release, and a retreat is for good.
    """
    for _ in range(4):
        rollout.should_take(1)
        rollout.record(replace(SAME, events=0, calls=3, silent_new=3))

    assert rollout.state is RolloutState.IN_PROGRESS


def test_what_is_over_stays_over(rollout: CanaryRollout, clock: Clock) -> None:
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
    """`words`: b, s, m, i, one letter an event."""
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


def test_a_verdict_that_differs_is_a_flip() -> None:
    said = compared([group("bbmi")], [group("bsmb")], new_s=0.1, old_s=0.2)

    assert said == Comparison(
        events=4, flips=2, calls=2, silent_new=0, silent_old=0, new_s=0.1, old_s=0.2
    )


def test_a_late_layer_is_a_silence_and_no_batch_full_of_flips() -> None:
    said = compared(
        [group("iiii", coverage=0.4, silent=True)], [group("bbbb")], new_s=0.1, old_s=0.1
    )

    assert (said.events, said.flips, said.silent_new, said.silent_old) == (0, 0, 1, 0)


def test_a_fusion_that_cannot_say_a_word_flips_every_verdict() -> None:
    """Every layer spoke and the new release still knows nothing: thresholds were forgotten."""
    assert compared([group("iiii")], [group("bbsm")], new_s=0.1, old_s=0.1).flips == 4


def test_where_the_old_release_knew_nothing_nothing_can_flip() -> None:
    assert compared([group("bsm")], [group("iii")], new_s=0.1, old_s=0.1).flips == 0


def test_rows_are_compared_with_themselves_however_they_are_grouped() -> None:
    new = [group("bm", rows=[0, 2]), group("s", rows=[1])]

    assert compared(new, [group("bsm")], new_s=0.1, old_s=0.1).flips == 0
    assert compared(new, [group("bms")], new_s=0.1, old_s=0.1).flips == 2


# -- controller

ONE, TWO, THREE = (ReleaseFusion(f"default/{serial}") for serial in (1, 2, 3))
MakeController = Callable[..., ReleaseController]


@pytest.fixture
def told() -> list[RolloutView]:
    return []


@pytest.fixture
def lives() -> list[str]:
    return []


@pytest.fixture
def controller(clock: Clock, told: list[RolloutView], lives: list[str]) -> ReleaseController:
    """Release 1 lives."""
    made = ReleaseController(RULES, clock=clock, on_active=lives.append, on_rollout=told.append)
    made.switch_to(ONE, at_once=False)
    return made


def test_the_first_release_takes_all_at_once(
    controller: ReleaseController, lives: list[str]
) -> None:
    assert controller.active == ONE
    assert not controller.is_rolling_out
    assert controller.view is None
    assert lives == ["default/1"]


def test_a_new_release_steps_beside_the_living_one(
    controller: ReleaseController, told: list[RolloutView]
) -> None:
    controller.switch_to(TWO, at_once=False)

    assert controller.route(1) == (TWO, ONE)
    assert controller.route(1) == (ONE, None)
    assert controller.active == ONE
    assert [(view.release, view.step, view.state) for view in told] == [
        ("default/2", 0, "in_progress")
    ]


def test_the_pointer_may_be_said_again_and_again(
    controller: ReleaseController, clock: Clock, told: list[RolloutView]
) -> None:
    """The follower looks every two seconds; a rollout that began anew each time would never end."""
    for _ in range(4):
        controller.switch_to(TWO, at_once=False)
        assert not controller.would_change("default/2")
        clock.now += 2.0

    assert controller.active == TWO
    assert [view.state for view in told] == ["in_progress", "in_progress", "done"]


def test_a_release_that_stepped_back_is_not_tried_again(
    controller: ReleaseController, told: list[RolloutView]
) -> None:
    controller.switch_to(TWO, at_once=False)
    for _ in range(100):
        controller.record("default/2", replace(SAME, flips=8))

    controller.switch_to(TWO, at_once=False)

    assert not controller.would_change("default/2")
    assert (controller.active, controller.is_rolling_out) == (ONE, False)
    assert [view.state for view in told] == ["in_progress", "rolled_back"]


def test_a_release_that_stepped_back_may_be_promoted_anew(controller: ReleaseController) -> None:
    """The operator pointed elsewhere and back: that is a decision."""
    controller.switch_to(TWO, at_once=False)
    controller.roll_back("default/2", "flips")
    controller.switch_to(ONE, at_once=False)

    controller.switch_to(TWO, at_once=False)

    assert controller.is_rolling_out


def test_a_roll_back_takes_all_at_once(
    controller: ReleaseController, clock: Clock, lives: list[str]
) -> None:
    """P8: within five seconds; what lived here before is proven."""
    controller.switch_to(TWO, at_once=False)
    clock.now += 6.0
    assert controller.active == TWO

    controller.switch_to(ONE, at_once=False)

    assert controller.route(1) == (ONE, None)
    assert lives == ["default/1", "default/2", "default/1"]


def test_an_operator_may_go_over_at_once(controller: ReleaseController) -> None:
    controller.switch_to(TWO, at_once=True)
    assert controller.active == TWO
    controller.switch_to(THREE, at_once=False)
    controller.switch_to(THREE, at_once=True)

    assert controller.active == THREE
    assert not controller.is_rolling_out


def test_a_pointer_that_moves_on_in_mid_step_ends_the_step(controller: ReleaseController) -> None:
    controller.switch_to(TWO, at_once=False)
    controller.switch_to(THREE, at_once=False)

    assert controller.route(1) == (THREE, ONE)
    controller.switch_to(ONE, at_once=False)
    assert controller.route(1) == (ONE, None)


def test_a_pointer_that_moves_back_to_a_retreated_release_ends_the_step_too(
    controller: ReleaseController,
) -> None:
    controller.switch_to(THREE, at_once=False)
    controller.roll_back("default/2", "flips at another ingress")

    controller.switch_to(TWO, at_once=False)

    assert controller.route(1) == (ONE, None)


def test_a_retreat_that_another_ingress_saw_is_followed(
    controller: ReleaseController, clock: Clock
) -> None:
    """Several ingress replicas decide alone.

    One bad word among them is enough, wherever the others stand.
    """
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


def test_a_retreat_that_is_known_before_the_release_comes_keeps_it_out(
    controller: ReleaseController,
) -> None:
    controller.roll_back("default/2", "flips at another ingress")

    controller.switch_to(TWO, at_once=False)

    assert (controller.active, controller.is_rolling_out) == (ONE, False)


def test_the_only_release_is_never_given_up(controller: ReleaseController) -> None:
    """An answer by a release that somebody doubts is better than none."""
    controller.roll_back("default/1", "doubted")

    assert controller.active == ONE


def test_a_comparison_of_an_earlier_rollout_says_nothing_about_this_one(
    controller: ReleaseController,
) -> None:
    controller.switch_to(TWO, at_once=False)
    controller.switch_to(THREE, at_once=False)

    for _ in range(100):
        controller.record("default/2", replace(SAME, flips=16))

    assert controller.is_rolling_out
