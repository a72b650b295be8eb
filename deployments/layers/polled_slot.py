"""A tenant's slot in a layer's process: looked after by a keeper, and switched by the controls."""

from __future__ import annotations

from collections.abc import Callable

from deployments.config.settings import Settings
from ensemble.errors import ArtifactError, LoadTimeout
from ensemble.runtime import Controls, LayerSlot, PollingThread, read_controls

__all__ = ["PolledSlot"]

LOOK_EVERY_S = 2.0  # RELIABILITY F1: at pointer and files
LOAD_WITHIN_S = 10.0  # RELIABILITY F13: a hanging disk costs a load, not the replica


class PolledSlot:
    """One tenant's models of one layer; loads beside, from the moment it is made.

    Args:
        tenant: whose.
        layer: its name.
        slot: that holds the models.
        settings: where the controls are, and what they cannot switch.
        looked: called after every look.
    """

    def __init__(
        self,
        tenant: str,
        layer: str,
        slot: LayerSlot,
        settings: Settings,
        looked: Callable[[], None],
    ) -> None:
        self.tenant, self.slot = tenant, slot
        self._layer, self._settings, self._looked = layer, settings, looked
        self._controls: Controls | None = None
        self._keeper = PollingThread(
            f"{layer}-{tenant}",
            self.look,
            self._give_up,
            every_s=LOOK_EVERY_S,
            limit_s=LOAD_WITHIN_S,
        )
        slot.wake = self._keeper.wake
        self._keeper.start()

    def look(self) -> None:
        """Apply what operators switched, then load what is new or missing."""
        try:
            controls = read_controls(self._settings.state)
        except ArtifactError:  # the ingress says so; the switches of before hold
            controls = self._controls or Controls()
        if self._controls is not None and self._layer in controls.resets_since(self._controls):
            self.slot.reset()
        self._controls = controls
        self.slot.is_disabled = self._layer in controls.disabled.union(
            self._settings.controls.disabled
        )
        self.slot.look()
        self._looked()

    def stop(self) -> None:
        """Look after it no longer."""
        self._keeper.stop()

    def _give_up(self) -> None:
        self.slot.give_up(LoadTimeout(f"the models of layer {self._layer}", LOAD_WITHIN_S))
