"""The watcher of a tenant's pointer: a promotion serves within seconds, without a restart.

No verdict mixes two releases. The watcher requests the release that the pointer names from the
layers, and switches the pipeline to it once they have loaded it. If a layer cannot load it, the
active release stays, or the best fallback serves. A pointer that cannot be read changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from deployments.observability import log_event
from deployments.poller import Poller
from deployments.scoring.layer_switches import LayerSwitches
from deployments.scoring.pipeline import TenantPipeline
from ensemble.layers import LAYERS
from ensemble.rollout import RolloutState
from ensemble.runtime import (
    FusionChoices,
    FusionResolver,
    LoadFailure,
    ReleaseFusion,
    SlotState,
    choose_release,
    failure_of,
    is_complete,
)

__all__ = ["PointerState", "ReleaseWatcher"]

FIRST_POLL_WITHIN_S = 1.0  # a start does not wait longer for a slow disk
POLL_EVERY_S = 2.0  # two small files
LAYERS_LOAD_WITHIN_S = 10.0  # RELIABILITY P7; then the layers that have loaded it decide
STATES_EVERY_S = 0.2  # while the layers load


@dataclass(frozen=True, slots=True)
class PointerState:
    """What the pointer names, and what is wrong with it.

    Attributes:
        wanted: name of the release that the pointer names, "" if the pointer cannot be read.
        pointer: `tenant#serial`, "" if it cannot be read.
        problem: with pointer, release or fusion; None if there is none.
    """

    wanted: str
    pointer: str
    problem: LoadFailure | None


class ReleaseWatcher:
    """Switch a pipeline to the best release that may serve its tenant.

    Args:
        pipeline: is switched.
        fusions: reads the pointer and its releases.
        switches: holds the rollback marks of all ingress replicas; a marked promotion is not tried
            again until the pointer moves.
    """

    def __init__(
        self, pipeline: TenantPipeline, fusions: FusionResolver, switches: LayerSwitches
    ) -> None:
        self._pipeline, self._fusions, self._switches = pipeline, fusions, switches
        self._poller = Poller(
            self.poll,
            every_s=POLL_EVERY_S,
            on_error=lambda error: self._set_problem(failure_of(error)),
        )
        self._decided = ("", "")  # the promotion of the last decision, and the chosen release
        # layer -> tenant -> the last state of its slot of that tenant
        self._states: dict[str, dict[str, SlotState]] = {}
        self._has_logged_lost_mark = False
        self._choices: FusionChoices | None = None
        self._problem: LoadFailure | None = None

    @property
    def has_polled(self) -> bool:
        """Whether the first poll has ended, successfully or not; until then no release is known."""
        return self._poller.has_polled

    @property
    def state(self) -> PointerState:
        """What the pointer names, and what is wrong with it."""
        if self._choices is None:
            return PointerState("", "", self._problem)
        return PointerState(self._choices.wanted, self._choices.pointer, self._problem)

    async def start(self, *, waits: bool = True) -> None:
        """Start polling.

        Args:
            waits: for the first poll, so that the first request finds a release.
        """
        await self._poller.start(within_s=FIRST_POLL_WITHIN_S if waits else 0.0)

    async def stop(self) -> None:
        """Stop polling."""
        await self._poller.stop()

    async def poll(self) -> None:
        """Switch to the best release that may serve, unless it is active already.

        Raises:
            ArtifactError: no release at all can be read. The active one stays; without one, every
                verdict is indeterminate.
        """
        choices = await asyncio.to_thread(self._fusions.resolve)
        self._choices = choices
        self._set_problem(choices.problem)
        controller = self._pipeline.controller
        if await self._is_rolled_back(choices):
            marks = self._switches.controls.rolled_back
            controller.roll_back(
                choices.wanted, marks.get(_promotion(choices), "it was rolled back here")
            )
            others = tuple(one for one in choices.releases if one.name != choices.wanted)
            choices = replace(choices, releases=others or choices.releases)
        best, states = await self._choose(choices)
        await self._follow_challenger(choices.challenger)
        promotion = _promotion(choices)
        if (promotion, best.name) == self._decided:
            return
        if promotion != self._decided[0]:
            controller.clear_rollback(best.name)
        self._decided = promotion, best.name
        is_fallback = best.name != choices.wanted  # it has served before
        active = self._pipeline.release
        has_gap = not is_complete(active, states)  # a canary would prolong it
        at_once = choices.at_once or is_fallback or has_gap or active.tenant != best.tenant
        controller.switch_to(best, at_once=at_once)

    async def _follow_challenger(self, challenger: ReleaseFusion | None) -> None:
        """Start the shadow evaluation of the challenger once the layers have loaded it.

        Requesting its states makes the layers load it.
        """
        is_loaded = challenger is not None and self._have_tried(
            challenger, await self._request_states(challenger.name)
        )
        self._pipeline.evaluation.set_challenger(challenger if is_loaded else None)

    def _set_problem(self, problem: LoadFailure | None) -> None:
        """Log what is wrong with pointer, release or fusion, once and on change."""
        if problem is not None and problem != self._problem:
            fields = {"code": problem.code, "cause": problem.cause, "error": problem.message}
            log_event(logging.ERROR, "fusion_load_failed", fields)
        self._problem = problem

    async def _is_rolled_back(self, choices: FusionChoices) -> bool:
        """Whether the wanted release was rolled back by this ingress replica or another one.

        The decision of one replica holds for all.
        """
        promotion = _promotion(choices)
        if promotion in self._switches.controls.rolled_back:
            return True
        view = self._pipeline.controller.view
        if (
            view is None
            or self._decided != (promotion, choices.wanted)
            or view.release != choices.wanted
            or view.state is not RolloutState.ROLLED_BACK
        ):
            return False
        try:
            await self._switches.update(
                lambda controls: controls.with_rollback(promotion, view.reason)
            )
        # the rollback holds here, in memory; the other replicas rate the release themselves
        except Exception as error:  # noqa: BLE001
            if not self._has_logged_lost_mark:
                self._has_logged_lost_mark = True
                fields = {"release": choices.wanted, "error_type": type(error).__name__}
                log_event(logging.ERROR, "rollback_write_failed", fields)
        return True

    async def _choose(
        self, choices: FusionChoices
    ) -> tuple[ReleaseFusion, Mapping[str, SlotState]]:
        """The release with which most of the ensemble is available, and the states of the layers.

        Waits for the layers to load a new release, but no longer than `LAYERS_LOAD_WITHIN_S`.
        """
        first, active = choices.releases[0], self._pipeline.release
        if not active.name:
            return first, {}  # a start does not wait for the layers
        is_new = first.name != active.name
        until = time.monotonic() + (LAYERS_LOAD_WITHIN_S if is_new else 0.0)
        for release in choices.releases:
            states = await self._request_states(release.name)
            while not self._have_tried(release, states) and time.monotonic() < until:
                await asyncio.sleep(STATES_EVERY_S)
                states = await self._request_states(release.name)
            if not self._have_tried(release, states) or is_complete(release, states):
                break  # a fallback is loaded only once this one is known to be incomplete
        return choose_release(choices, states), states

    async def _request_states(self, release: str) -> dict[str, SlotState]:
        """Request the states of all enabled layers; a layer without `release` starts to load it.

        For a layer that does not respond, its last state is used. A layer has one slot for each
        tenant; the releases that its slots of other tenants have loaded are included.
        """
        tenant = release.partition("/")[0]
        layers = self._pipeline.layers
        for layer, (state, _) in (await layers.states(release)).items():
            self._states.setdefault(layer, {})[tenant] = state
        return {
            layer: replace(
                next(reversed(slots.values())),
                holds={name: kinds for one in slots.values() for name, kinds in one.holds.items()},
            )
            for layer, slots in self._states.items()
            if layer not in layers.disabled
        }

    def _have_tried(self, release: ReleaseFusion, states: Mapping[str, SlotState]) -> bool:
        """Whether every enabled layer that `release` needs has tried to load it."""
        layers = self._pipeline.layers
        return all(
            layer in states and release.name in states[layer].holds
            for layer in set(layers.names) - layers.disabled
            if any(release.needs(layer, kind) for kind in LAYERS[layer].kinds)
        )


def _promotion(choices: FusionChoices) -> str:
    """Identify the promotion: the pointer and the release that it names.

    Serials restart if a store is lost, so the pointer alone is not unique.
    """
    return f"{choices.pointer}>{choices.wanted.partition('/')[2]}"
