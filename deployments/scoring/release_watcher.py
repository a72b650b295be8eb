"""The ingress follows its tenant's pointer: a promotion is served within seconds, without a restart, and no answer mixes two releases.

The ingress goes first only in asking: it tells the layers which release the pointer names, and
fuses with it once they have
it. Where a layer cannot have it, the release in use goes on, or the best one that stands in its
place. What cannot be read changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from deployments.observability.log import log_event
from deployments.scoring.pipeline import FanOut
from deployments.web import describe_code
from ensemble.rollout.canary import RolloutState
from ensemble.runtime.controls import Controls
from ensemble.runtime.model_state import LoadFailure, SlotState, failure_of
from ensemble.runtime.release_fusion import (
    FusionChoices,
    FusionResolver,
    ReleaseFusion,
    choose_release,
    is_whole,
)

__all__ = ["ReleaseWatcher"]

FIRST_LOOK_WITHIN_S = 1.0  # a start does not wait longer for a slow disk
LOOK_EVERY_S = 2.0  # at the pointer: two small files
LAYERS_FOLLOW_WITHIN_S = 10.0  # RELIABILITY P7; the layers that have the new release by then decide
ASK_AGAIN_AFTER_S = 0.2


class RollbackMarks(Protocol):
    """The part of the switches that says which releases were left again."""

    @property
    def controls(self) -> Controls:
        """As they were read last."""
        ...

    async def change(self, change: Callable[[Controls], Controls]) -> Controls:
        """Switch something, for every ingress."""
        ...


class ReleaseWatcher:
    """Keeps a fan-out on the best release that may serve.

    Args:
        fan_out: what is kept.
        fusions: where pointer and releases are read.
        retreats: which pointers' releases were tried and left, by any ingress; such a one is
            not offered again until the pointer moves.
    """

    def __init__(self, fan_out: FanOut, fusions: FusionResolver, retreats: RollbackMarks) -> None:
        self._fan_out, self._fusions, self._retreats = fan_out, fusions, retreats
        self._following: asyncio.Task[None] | None = None
        self._decided = ("", "")  # pointer and release that were decided last
        self._known: dict[
            str, dict[str, SlotState]
        ] = {}  # layer -> tenant -> what its slot of that tenant said last
        self._has_told_unkept = False
        self._offer: FusionChoices | None = None
        self._trouble: LoadFailure | None = None
        self._has_looked = asyncio.Event()

    @property
    def has_looked(self) -> bool:
        """Whether the first look has ended, well or not.

        Before that nothing is known of what to fuse with.
        """
        return self._has_looked.is_set()

    @property
    def facts(self) -> dict[str, Any]:
        """What the pointer wants, and what is wrong with it, for people."""
        trouble = self._trouble
        return {
            "wanted": self._offer.wanted if self._offer else "",
            "pointer": self._offer.pointer if self._offer else "",
            "trouble": {
                "code": trouble.code,
                "cause": trouble.cause,
                "meaning": describe_code(trouble.code),
            }
            if trouble
            else None,
        }

    async def start(self, *, waits: bool = True) -> None:
        """Follow from now on.

        `waits` for the first look, so that the first request finds a fusion.
        """
        self._following = asyncio.create_task(self._follow())
        if waits:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._has_looked.wait(), FIRST_LOOK_WITHIN_S)

    async def stop(self) -> None:
        """Follow no longer."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            try:
                await self.look()
            # the release in use goes on; without one, every verdict is indeterminate
            except Exception as error:  # noqa: BLE001
                self._tell(failure_of(error))
            self._has_looked.set()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Go over to the best release that may serve, if it is another one.

        Raises:
            ArtifactError: no release at all can be had.
        """
        offer = await asyncio.to_thread(self._fusions.look)
        self._offer = offer
        self._tell(offer.trouble)
        if await self._has_retreated(offer):
            self._fan_out.roll_back(
                offer.wanted,
                self._retreats.controls.retreated.get(_id_of(offer), "it stepped back here"),
            )
            offer = replace(
                offer,
                releases=tuple(one for one in offer.releases if one.name != offer.wanted)
                or offer.releases,
            )
        best, said = await self._best(offer)
        await self._follow_challenger(offer.challenger)
        if (_id_of(offer), best.name) == self._decided:
            return
        if _id_of(offer) != self._decided[0]:
            self._fan_out.clear_rollback(best.name)
        self._decided = (_id_of(offer), best.name)
        is_stand_in = best.name != offer.wanted  # what stands in for another is known already
        active = self._fan_out.release
        has_gap = not is_whole(
            active.name, said
        )  # holding back what closes it would be chosen blindness
        self._fan_out.serve(
            best, at_once=offer.at_once or is_stand_in or has_gap or active.tenant != best.tenant
        )

    async def _follow_challenger(self, challenger: ReleaseFusion | None) -> None:
        """Have the challenger tried in shadow once every layer has it.

        To ask for it makes them load it.
        """
        if challenger is None:
            self._fan_out.challenge(None)
            return
        said = await self._ask(challenger.name)
        self._fan_out.challenge(challenger if self._have_tried(challenger.name, said) else None)

    def _tell(self, trouble: LoadFailure | None) -> None:
        """Say what is wrong with pointer, release or fusion, once and on change."""
        if trouble is not None and trouble != self._trouble:
            log_event(
                logging.ERROR,
                "fusion_load_failed",
                {"code": trouble.code, "cause": trouble.cause, "error": trouble.message},
            )
        self._trouble = trouble

    async def _has_retreated(self, offer: FusionChoices) -> bool:
        """Whether the wanted release was tried and left, here or by another ingress.

        Each believes the others.
        """
        if _id_of(offer) in self._retreats.controls.retreated:
            return True
        view = self._fan_out.rollout
        is_ours = (
            self._decided == (_id_of(offer), offer.wanted)
            and view is not None
            and view.release == offer.wanted
        )
        if not is_ours or view is None or view.state is not RolloutState.RETREATED:
            return False
        try:
            await self._retreats.change(
                lambda controls: controls.with_retreat(_id_of(offer), view.reason)
            )
        # it holds here, in memory; the others find out by themselves
        except Exception as error:  # noqa: BLE001
            if not self._has_told_unkept:
                self._has_told_unkept = True
                log_event(
                    logging.ERROR,
                    "retreat_not_kept",
                    {"release": offer.wanted, "error_type": type(error).__name__},
                )
        return True

    async def _best(self, offer: FusionChoices) -> tuple[ReleaseFusion, Mapping[str, SlotState]]:
        """The release with which most of the ensemble speaks, once the layers had their time to load it; and how the layers stand."""
        first = offer.releases[0]
        if not self._fan_out.release.name:
            return first, {}  # a start waits for nobody; the next look knows more
        is_new = first.name != self._fan_out.release.name
        until = time.monotonic() + (LAYERS_FOLLOW_WITHIN_S if is_new else 0.0)
        for release in offer.releases:
            said = await self._ask(release.name)
            while not self._have_tried(release.name, said) and time.monotonic() < until:
                await asyncio.sleep(ASK_AGAIN_AFTER_S)
                said = await self._ask(release.name)
            if not self._have_tried(release.name, said) or is_whole(release.name, said):
                break  # what is further down is loaded when this is known to be worse, one a look
        return choose_release(offer, said), said

    async def _ask(self, release: str) -> dict[str, SlotState]:
        """How the layers that are asked at all stand; one that does not answer now stands as it did. Who has not `release` looks for it.

        A layer keeps each tenant's releases in a slot of their own: what it said of a parent's is
        added to what it says of this one's.
        """
        tenant = release.partition("/")[0]
        for layer, (state, _) in (await self._fan_out.asked.states(release)).items():
            self._known.setdefault(layer, {})[tenant] = state
        return {
            layer: replace(
                next(reversed(slots.values())),
                holds={name: kinds for one in slots.values() for name, kinds in one.holds.items()},
            )
            for layer, slots in self._known.items()
            if layer not in self._fan_out.asked.disabled
        }

    def _have_tried(self, release: str, said: Mapping[str, SlotState]) -> bool:
        """Whether every layer that is asked has loaded what it could of `release`."""
        asked = set(self._fan_out.asked.names) - self._fan_out.asked.disabled
        return said.keys() == asked and all(release in state.holds for state in said.values())


def _id_of(offer: FusionChoices) -> str:
    """The promotion that an offer comes from.

    Serials may begin again where a store was lost, so the release is part of it.
    """
    return f"{offer.pointer}>{offer.wanted.partition('/')[2]}"
